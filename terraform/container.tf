resource "scaleway_registry_namespace" "main" {
  name        = local.unique_name
  description = "The GPU autoscaler's image"
  project_id  = local.project_id
  is_public   = false
}

resource "scaleway_container_namespace" "main" {
  name        = var.name
  description = "The GPU autoscaler"
  project_id  = local.project_id
  tags        = local.tags
}

locals {
  image = var.image_tag == null ? null : "${scaleway_registry_namespace.main.endpoint}/gpu-autoscaler:${var.image_tag}"
}

resource "scaleway_container" "daemon" {
  count = var.image_tag == null ? 0 : 1

  name         = "daemon"
  description  = "Starts and stops GPU machines for ClearML queues"
  namespace_id = scaleway_container_namespace.main.id
  tags         = local.tags
  image        = local.image
  port         = 8080
  protocol     = "http1"

  # One, always: it acts by itself, not on request. While a new one takes over there are two for a
  # moment; the lease in the bucket lets one of them act.
  min_scale = 1
  max_scale = 1

  # The daemon was measured at 75 to 92 MB (`make bench`), and with this share of a CPU it is healthy 6
  # seconds after its start and ends 3 after SIGTERM. The next smaller pair, 128 MB and 70 mvCPU,
  # takes twice as long and leaves no room for a bad day.
  memory_limit_bytes = 256 * 1000 * 1000 # the platform counts in millions
  cpu_limit          = 140

  sandbox                = "v2" # gVisor; the clock of v1 drifts by 2 seconds a day
  timeout                = 60   # no request to it takes long
  https_connections_only = true
  privacy                = nonsensitive(var.api_token == null) ? "private" : "public"
  private_network_id     = var.private_network_id

  environment_variables = local.environment
  secret_environment_variables = merge(
    local.secrets,
    var.api_token == null ? {} : { GPU_AUTOSCALER_API_TOKEN = var.api_token },
  )

  # 503 when the loop stands still. The daemon ends itself in the end, should the platform not act.
  liveness_probe {
    interval          = "30s"
    timeout           = "5s"
    failure_threshold = 4

    http {
      path = "/healthz"
    }
  }

  startup_probe {
    interval          = "5s"
    timeout           = "5s"
    failure_threshold = 24

    http {
      path = "/healthz"
    }
  }

  # It reads the configuration when it starts, and may do nothing without its permissions.
  depends_on = [scaleway_object.config, scaleway_iam_policy.daemon]
}

# Keeps the container warm, should the platform take time from one that nobody calls.
resource "scaleway_container_trigger" "warm" {
  count = var.image_tag == null ? 0 : 1

  name         = "warm"
  description  = "Calls the daemon every minute"
  container_id = scaleway_container.daemon[0].id
  tags         = local.tags

  destination_config {
    http_path   = "/healthz"
    http_method = "get"
  }

  cron {
    schedule = "* * * * *"
    timezone = "Etc/UTC"
  }
}
