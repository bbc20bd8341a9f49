# A library of media in a bucket that only Keyfront may read. Viewers need a signature by one of two keys.
#
# The primary key signs; the backup key is trusted already and lies in a safe. To rotate: let the application sign
# with the backup, put a new public key in the place of the primary and apply, then change roles.

resource "aws_cloudfront_public_key" "primary" {
  name_prefix = "media-primary-"
  comment     = "signs for ${var.comment}"
  encoded_key = file("${var.keys}/primary.pem")

  # A key is not changed but replaced: the new one joins its group before the old one goes.
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_cloudfront_public_key" "backup" {
  name_prefix = "media-backup-"
  comment     = "takes over if the primary must go"
  encoded_key = file("${var.keys}/backup.pem")

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_cloudfront_key_group" "media" {
  name    = "media"
  comment = "who may sign for ${var.comment}"
  items   = [aws_cloudfront_public_key.primary.id, aws_cloudfront_public_key.backup.id]
}

resource "aws_cloudfront_origin_access_identity" "media" {
  comment = "reads ${var.comment}"
}

resource "aws_cloudfront_distribution" "media" {
  comment             = var.comment
  enabled             = var.enabled
  price_class         = "PriceClass_100"
  wait_for_deployment = var.wait

  origin {
    origin_id   = "bucket"
    domain_name = var.bucket
    origin_path = "/library"

    s3_origin_config {
      origin_access_identity = aws_cloudfront_origin_access_identity.media.cloudfront_access_identity_path
    }
  }

  default_cache_behavior {
    target_origin_id       = "bucket"
    viewer_protocol_policy = "redirect-to-https"
    allowed_methods        = ["GET", "HEAD", "OPTIONS"]
    cached_methods         = ["GET", "HEAD", "OPTIONS"]
    cache_policy_id        = "658327ea-f89d-4fab-a63d-7e88639e58f6" # Managed-CachingOptimized
    compress               = true
    trusted_key_groups     = [aws_cloudfront_key_group.media.id]
  }

  restrictions {
    geo_restriction {
      restriction_type = "none"
    }
  }

  viewer_certificate {
    cloudfront_default_certificate = true
  }
}
