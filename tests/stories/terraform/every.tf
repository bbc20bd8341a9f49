# Every CloudFront resource of the AWS provider that Keyfront's API has, with as much said as can be.

variable "endpoint" { type = string }
variable "keys" { type = string }

variable "comment" {
  type    = string
  default = "first"
}

variable "enabled" {
  type    = bool
  default = true
}

resource "aws_cloudfront_public_key" "this" {
  comment     = var.comment
  encoded_key = file("${var.keys}/primary.pem")
}

resource "aws_cloudfront_key_group" "this" {
  name    = "every"
  comment = var.comment
  items   = [aws_cloudfront_public_key.this.id]
}

resource "aws_cloudfront_cache_policy" "this" {
  name        = "every"
  comment     = var.comment
  min_ttl     = 1
  default_ttl = 60
  max_ttl     = 3600

  parameters_in_cache_key_and_forwarded_to_origin {
    enable_accept_encoding_gzip   = true
    enable_accept_encoding_brotli = true
    headers_config {
      header_behavior = "whitelist"
      headers {
        items = ["Origin", "X-Tenant"]
      }
    }
    cookies_config {
      cookie_behavior = "allExcept"
      cookies {
        items = ["session"]
      }
    }
    query_strings_config {
      query_string_behavior = "whitelist"
      query_strings {
        items = ["page", "size"]
      }
    }
  }
}

resource "aws_cloudfront_cache_policy" "least" {
  name    = "least"
  min_ttl = 0
  parameters_in_cache_key_and_forwarded_to_origin {
    headers_config {
      header_behavior = "none"
    }
    cookies_config {
      cookie_behavior = "none"
    }
    query_strings_config {
      query_string_behavior = "all"
    }
  }
}

resource "aws_cloudfront_origin_request_policy" "this" {
  name    = "every"
  comment = var.comment
  headers_config {
    header_behavior = "allViewerAndWhitelistCloudFront"
    headers {
      items = ["CloudFront-Viewer-Country"]
    }
  }
  cookies_config {
    cookie_behavior = "whitelist"
    cookies {
      items = ["a", "b"]
    }
  }
  query_strings_config {
    query_string_behavior = "all"
  }
}

resource "aws_cloudfront_response_headers_policy" "this" {
  name    = "every"
  comment = var.comment

  cors_config {
    access_control_allow_credentials = true
    access_control_max_age_sec       = 600
    origin_override                  = false
    access_control_allow_headers {
      items = ["X-A"]
    }
    access_control_allow_methods {
      items = ["GET", "HEAD"]
    }
    access_control_allow_origins {
      items = ["https://example.com", "*.example.org"]
    }
    access_control_expose_headers {
      items = ["X-B"]
    }
  }
  custom_headers_config {
    items {
      header   = "X-Custom"
      override = true
      value    = "yes"
    }
  }
  remove_headers_config {
    items {
      header = "X-Powered-By"
    }
  }
  security_headers_config {
    content_security_policy {
      content_security_policy = "default-src 'self'"
      override                = true
    }
    content_type_options {
      override = true
    }
    frame_options {
      frame_option = "DENY"
      override     = true
    }
    referrer_policy {
      referrer_policy = "same-origin"
      override        = true
    }
    strict_transport_security {
      access_control_max_age_sec = 63072000
      include_subdomains         = true
      preload                    = true
      override                   = true
    }
    xss_protection {
      protection = true
      mode_block = true
      override   = true
    }
  }
  server_timing_headers_config {
    enabled       = true
    sampling_rate = 12.5
  }
}

resource "aws_cloudfront_response_headers_policy" "least" {
  name = "least"
  custom_headers_config {
    items {
      header   = "X-Custom"
      override = false
      value    = "no"
    }
  }
}

resource "aws_cloudfront_origin_access_control" "this" {
  name                              = "every"
  description                       = var.comment
  origin_access_control_origin_type = "s3"
  signing_behavior                  = "always"
  signing_protocol                  = "sigv4"
}

resource "aws_cloudfront_origin_access_identity" "this" {
  comment = var.comment
}

data "aws_cloudfront_cache_policy" "by_name" {
  name = "Managed-CachingOptimized"
}

data "aws_cloudfront_origin_request_policy" "by_name" {
  name = "Managed-AllViewer"
}

data "aws_cloudfront_response_headers_policy" "by_name" {
  name = "Managed-SecurityHeadersPolicy"
}

data "aws_cloudfront_origin_access_identity" "this" {
  id = aws_cloudfront_origin_access_identity.this.id
}

data "aws_cloudfront_origin_access_identities" "all" {
  depends_on = [aws_cloudfront_origin_access_identity.this]
}

data "aws_cloudfront_origin_access_control" "this" {
  id = aws_cloudfront_origin_access_control.this.id
}

data "aws_cloudfront_distribution" "this" {
  id = aws_cloudfront_distribution.this.id
}

resource "aws_cloudfront_distribution" "this" {
  comment             = var.comment
  enabled             = var.enabled
  is_ipv6_enabled     = true
  http_version        = "http2and3"
  price_class         = "PriceClass_200"
  aliases             = ["every.example.com", "*.every.example.com"]
  default_root_object = "index.html"
  wait_for_deployment = false

  origin {
    origin_id                = "bucket"
    domain_name              = "every.s3.eu-central-1.amazonaws.com"
    origin_access_control_id = aws_cloudfront_origin_access_control.this.id
    connection_attempts      = 2
    connection_timeout       = 5
  }

  origin {
    origin_id   = "old"
    domain_name = "old.s3.eu-central-1.amazonaws.com"
    s3_origin_config {
      origin_access_identity = aws_cloudfront_origin_access_identity.this.cloudfront_access_identity_path
    }
  }

  origin {
    origin_id   = "app"
    domain_name = "app.example.com"
    origin_path = "/live"
    custom_header {
      name  = "X-From-Edge"
      value = "a secret & more"
    }
    custom_header {
      name  = "X-Other"
      value = "b"
    }
    custom_origin_config {
      http_port                = 8080
      https_port               = 8443
      origin_protocol_policy   = "match-viewer"
      origin_ssl_protocols     = ["TLSv1.2", "TLSv1.1"]
      origin_read_timeout      = 20
      origin_keepalive_timeout = 10
    }
    origin_shield {
      enabled              = true
      origin_shield_region = "eu-central-1"
    }
  }

  origin_group {
    origin_id = "group"
    failover_criteria {
      status_codes = [500, 502, 404]
    }
    member {
      origin_id = "bucket"
    }
    member {
      origin_id = "old"
    }
  }

  default_cache_behavior {
    target_origin_id           = "group"
    viewer_protocol_policy     = "redirect-to-https"
    allowed_methods            = ["GET", "HEAD", "OPTIONS"]
    cached_methods             = ["GET", "HEAD"]
    compress                   = true
    cache_policy_id            = aws_cloudfront_cache_policy.this.id
    origin_request_policy_id   = data.aws_cloudfront_origin_request_policy.by_name.id
    response_headers_policy_id = aws_cloudfront_response_headers_policy.this.id
    trusted_key_groups         = [aws_cloudfront_key_group.this.id]
  }

  ordered_cache_behavior {
    path_pattern             = "/api/*"
    target_origin_id         = "app"
    viewer_protocol_policy   = "https-only"
    allowed_methods          = ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]
    cached_methods           = ["GET", "HEAD", "OPTIONS"]
    cache_policy_id          = aws_cloudfront_cache_policy.least.id
    origin_request_policy_id = aws_cloudfront_origin_request_policy.this.id
  }

  ordered_cache_behavior {
    path_pattern               = "*.jpg"
    target_origin_id           = "bucket"
    viewer_protocol_policy     = "allow-all"
    allowed_methods            = ["GET", "HEAD"]
    cached_methods             = ["GET", "HEAD"]
    cache_policy_id            = data.aws_cloudfront_cache_policy.by_name.id
    response_headers_policy_id = data.aws_cloudfront_response_headers_policy.by_name.id
  }

  ordered_cache_behavior {
    path_pattern           = "/legacy/*"
    target_origin_id       = "app"
    viewer_protocol_policy = "allow-all"
    allowed_methods        = ["GET", "HEAD"]
    cached_methods         = ["GET", "HEAD"]
    min_ttl                = 0
    default_ttl            = 0
    max_ttl                = 0
    forwarded_values {
      query_string = true
      headers      = ["*"]
      cookies {
        forward           = "whitelist"
        whitelisted_names = ["one", "two"]
      }
    }
  }

  custom_error_response {
    error_code            = 404
    response_code         = 200
    response_page_path    = "/404.html"
    error_caching_min_ttl = 5
  }

  custom_error_response {
    error_code = 503
  }

  logging_config {
    bucket          = "logs.s3.amazonaws.com"
    include_cookies = true
    prefix          = "every/"
  }

  restrictions {
    geo_restriction {
      restriction_type = "whitelist"
      locations        = ["DE", "FR", "CH"]
    }
  }

  viewer_certificate {
    acm_certificate_arn      = "arn:aws:acm:us-east-1:123456789012:certificate/01234567-89ab-cdef-0123-456789abcdef"
    ssl_support_method       = "sni-only"
    minimum_protocol_version = "TLSv1.2_2021"
  }

  tags = {
    team  = "media"
    empty = ""
  }
}

resource "aws_cloudfront_monitoring_subscription" "this" {
  distribution_id = aws_cloudfront_distribution.this.id
  monitoring_subscription {
    realtime_metrics_subscription_config {
      realtime_metrics_subscription_status = "Enabled"
    }
  }
}
