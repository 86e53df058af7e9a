# Acts when the daemon is gone: the platform removes a container whose deployment failed after 24
# hours, the one before it included. While the daemon lives this looks at the lease and ends.
resource "scaleway_job_definition" "cleaner" {
  count = var.image_tag == null ? 0 : 1

  name        = "${var.name}-cleaner"
  description = "Takes one step for the GPU autoscaler's daemon when it is gone"
  project_id  = local.project_id
  image_uri   = local.image

  startup_command = ["python", "-m", "gpu_autoscaler"]
  args            = ["run", "--once", "--if-lease-older-than", "10m"]

  cpu_limit              = 140
  memory_limit           = 256  # MB
  local_storage_capacity = 1024 # MiB; nothing is written
  timeout                = "5m"

  env = local.environment

  dynamic "secret_reference" {
    for_each = scaleway_secret_version.daemon

    content {
      secret_id      = scaleway_secret.daemon[secret_reference.key].id
      secret_version = "latest"
      environment    = secret_reference.key
    }
  }

  # More rarely than the age it is given: its own step counts as a sign of life.
  cron {
    schedule = "*/15 * * * *"
    timezone = "Etc/UTC"
  }

  depends_on = [scaleway_object.config, scaleway_iam_policy.daemon]
}
