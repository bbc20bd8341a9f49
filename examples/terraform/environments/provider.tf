terraform {
  required_version = ">= 1.3"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}

# The access key comes from where the AWS clients look for it: AWS_SHARED_CREDENTIALS_FILE=…/credentials
provider "aws" {
  region = "us-east-1"

  endpoints {
    cloudfront = var.endpoint
  }

  # There is nothing but CloudFront at the endpoint.
  skip_credentials_validation = true
  skip_requesting_account_id  = true
  skip_metadata_api_check     = true
}
