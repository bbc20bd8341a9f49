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

  # The provider asks STS who it is before anything else; Keyfront answers that, too.
  endpoints {
    cloudfront = var.endpoint
    cloudwatch = var.endpoint
    sts        = var.endpoint
  }
}
