output "domain_names" {
  description = "The distributions' own names, by environment."
  value       = { for name, distribution in aws_cloudfront_distribution.this : name => distribution.domain_name }
}

output "key_ids" {
  description = "The ids that signers need as Key-Pair-Id, by environment and tier."
  value       = { for name, key in aws_cloudfront_public_key.tier : name => key.id }
}

output "distribution_ids" {
  description = "The distributions' ids, by environment."
  value       = { for name, distribution in aws_cloudfront_distribution.this : name => distribution.id }
}
