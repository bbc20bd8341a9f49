# Three environments from one description: for each a distribution with two tiers of key groups.
#
#   everything        a signature by either tier
#   /docs/*           a signature by the staff tier alone
#
# Keys, TTLs, the countries that are shut out and the origin differ by environment (variables.tf).

locals {
  tiers = ["viewers", "staff"]

  # One public key for each environment and tier, by a name such as "dev-staff".
  keys = merge([
    for environment in keys(var.environments) : {
      for tier in local.tiers : "${environment}-${tier}" => { environment = environment, tier = tier }
    }
  ]...)
}

resource "aws_cloudfront_public_key" "tier" {
  for_each = local.keys

  name_prefix = "${each.key}-"
  comment     = "${each.value.tier} of ${each.value.environment}"
  encoded_key = file("${var.keys}/${each.key}.pem")

  # A key is not changed but replaced: the new one joins its group before the old one goes.
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_cloudfront_key_group" "tier" {
  for_each = local.keys

  name    = each.key
  comment = "who may sign as ${each.value.tier} of ${each.value.environment}"
  items   = [aws_cloudfront_public_key.tier[each.key].id]
}

resource "aws_cloudfront_distribution" "this" {
  for_each = var.environments

  comment             = "${var.comment} (${each.key})"
  enabled             = var.enabled
  aliases             = each.value.aliases
  default_root_object = "index.html"
  wait_for_deployment = var.wait

  origin {
    origin_id   = "app"
    domain_name = each.value.origin.host

    custom_origin_config {
      http_port              = each.value.origin.port
      https_port             = 443
      origin_protocol_policy = "http-only"
      origin_ssl_protocols   = ["TLSv1.2"]
    }
  }

  default_cache_behavior {
    target_origin_id       = "app"
    viewer_protocol_policy = each.value.https_only ? "redirect-to-https" : "allow-all"
    allowed_methods        = ["GET", "HEAD", "OPTIONS"]
    cached_methods         = ["GET", "HEAD"]
    compress               = true
    trusted_key_groups     = [for tier in local.tiers : aws_cloudfront_key_group.tier["${each.key}-${tier}"].id]

    min_ttl     = each.value.ttl.min
    default_ttl = each.value.ttl.default
    max_ttl     = each.value.ttl.max

    forwarded_values {
      query_string = false
      cookies {
        forward = "none"
      }
    }
  }

  ordered_cache_behavior {
    path_pattern           = "/docs/*"
    target_origin_id       = "app"
    viewer_protocol_policy = each.value.https_only ? "https-only" : "allow-all"
    allowed_methods        = ["GET", "HEAD"]
    cached_methods         = ["GET", "HEAD"]
    trusted_key_groups     = [aws_cloudfront_key_group.tier["${each.key}-staff"].id]

    min_ttl     = 0
    default_ttl = each.value.ttl.min
    max_ttl     = each.value.ttl.default

    forwarded_values {
      query_string            = true
      query_string_cache_keys = ["version"]
      headers                 = ["Accept-Language"]
      cookies {
        forward = "none"
      }
    }
  }

  custom_error_response {
    error_code            = 404
    error_caching_min_ttl = each.value.ttl.min
  }

  restrictions {
    geo_restriction {
      restriction_type = length(each.value.blocked_countries) > 0 ? "blacklist" : "none"
      locations        = each.value.blocked_countries
    }
  }

  viewer_certificate {
    cloudfront_default_certificate = true
  }

  tags = {
    environment = each.key
  }
}
