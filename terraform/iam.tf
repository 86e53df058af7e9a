# Who the daemon is at Scaleway. GPU machines get no key: they need none.
resource "scaleway_iam_application" "daemon" {
  name        = var.name
  description = "The GPU autoscaler's daemon"
  tags        = local.tags
}

resource "scaleway_iam_policy" "daemon" {
  name           = var.name
  description    = "What the GPU autoscaler's daemon may do, in its project alone"
  application_id = scaleway_iam_application.daemon.id
  tags           = local.tags

  rule {
    project_ids = [local.project_id]
    permission_set_names = [
      # Creates, starts, stops, tags and deletes servers; sets and removes their user data.
      # There is nothing between this and InstancesServerStart/Stop, which cannot create.
      "InstancesFullAccess",
      # Tags, lists and deletes their volumes: deleting a server leaves its block volume, billed.
      "BlockStorageFullAccess",
      # Reads the configuration, the memory, the lease and the ledger.
      "ObjectStorageObjectsRead",
      # Writes the memory, the lease and the ledger. Nothing in the bucket is ever deleted by the daemon.
      "ObjectStorageObjectsWrite",
    ]
  }
}

resource "scaleway_iam_api_key" "daemon" {
  application_id     = scaleway_iam_application.daemon.id
  description        = "The GPU autoscaler's daemon, made by Terraform"
  expires_at         = var.api_key_expires_at
  default_project_id = local.project_id # object storage looks for the bucket there

  lifecycle {
    # The old key lives until the daemon has the new one.
    create_before_destroy = true
  }
}

check "api_key_lives_on" {
  assert {
    condition     = timecmp(var.api_key_expires_at, timeadd(plantimestamp(), "720h")) > 0
    error_message = "The daemon's key ends on ${var.api_key_expires_at}, in less than 30 days: choose a later api_key_expires_at."
  }
}
