"""IAM's rules: policy documents, conditions, wildcards, permissions, and roles. Pure."""
