output "domain_name" {
  description = "The distribution's own name."
  value       = aws_cloudfront_distribution.media.domain_name
}

output "key_id" {
  description = "The id that signers need as Key-Pair-Id."
  value       = aws_cloudfront_public_key.primary.id
}

output "distribution_id" {
  description = "The distribution's id."
  value       = aws_cloudfront_distribution.media.id
}
