"""Keys in AWS: KMS, Secrets Manager and Parameter Store."""
