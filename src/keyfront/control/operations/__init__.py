"""CloudFront's operations, one module per resource, over one `OperationContext`."""
