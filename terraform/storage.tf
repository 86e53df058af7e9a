# The daemon's memory, lease, ledger and configuration. Not versioned: the lease is written anew
# every few seconds, and lines are only ever added to the ledger.
resource "scaleway_object_bucket" "main" {
  name          = local.unique_name
  project_id    = local.project_id
  force_destroy = true # or `terraform destroy` would stop at what the daemon wrote
}

resource "scaleway_object" "config" {
  bucket       = scaleway_object_bucket.main.name
  project_id   = local.project_id
  key          = local.config_key
  file         = var.config_file
  hash         = filemd5(var.config_file)
  content_type = "application/yaml"
  visibility   = "private"

  lifecycle {
    precondition {
      condition     = try(local.config.store.bucket != null, false)
      error_message = "${var.config_file} has no store: a container's disk does not outlive a deployment. Take the store section of queues.example.yaml."
    }

    precondition {
      condition     = length(local.unset) == 0
      error_message = "${var.config_file} names what nothing sets: ${join(", ", local.unset)}. A secret goes into extra_secrets; a security group is made in each zone that a placement names."
    }
  }
}
