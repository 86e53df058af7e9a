terraform {
  # 1.9: a variable's validation may look at other things than the variable; 1.11: S3 lock files.
  required_version = ">= 1.11"

  required_providers {
    scaleway = {
      source = "scaleway/scaleway"
      # 2.76 brought the containers' API v1, whose arguments are used here.
      version = ">= 2.76, < 3"
    }
  }
}

# Credentials come from SCW_ACCESS_KEY and SCW_SECRET_KEY, or from what `scw init` wrote.
provider "scaleway" {
  region = var.region
}
