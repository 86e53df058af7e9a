"""Terraform itself on `terraform/`, against a provider that is faked but for its arguments."""
