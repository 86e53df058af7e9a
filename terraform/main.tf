resource "scaleway_account_project" "own" {
  count = var.project_id == null ? 1 : 0

  name        = var.name
  description = "GPU machines for ClearML queues, and the daemon that starts and stops them"
}

locals {
  project_id = var.project_id == null ? scaleway_account_project.own[0].id : var.project_id

  # Buckets and registries share one name space with all of Scaleway's customers.
  unique_name = "${var.name}-${substr(local.project_id, 0, 8)}"
  tags        = ["managed-by=terraform", "name=${var.name}"]

  config_key = "queues.yaml"

  # What is needed of it here. Its ${VARIABLES} are the daemon's to fill in, from local.environment.
  config = yamldecode(file(var.config_file))
  zones = toset(flatten([
    for queue in values(local.config.queues) : try([
      for placement in try(queue.placements, local.config.defaults.placements) : placement.zone
    ], []) # what is wrong there, the daemon's check says better
  ]))

  # Each name has a value whatever is configured, and none is secret: plans show them.
  environment = merge(
    {
      GPU_AUTOSCALER_CONFIG        = "s3://${scaleway_object_bucket.main.name}/${local.config_key}"
      GPU_AUTOSCALER_CONFIG_REGION = var.region
      GPU_AUTOSCALER_BUCKET        = scaleway_object_bucket.main.name
      GPU_AUTOSCALER_PROJECT_ID    = local.project_id
    },
    {
      for zone, id in local.security_group_ids :
      "GPU_AUTOSCALER_SECURITY_GROUP_${upper(replace(zone, "-", "_"))}" => id
    },
  )

  secrets = merge(
    {
      GPU_AUTOSCALER_CLEARML_ACCESS_KEY  = var.clearml_access_key
      GPU_AUTOSCALER_CLEARML_SECRET_KEY  = var.clearml_secret_key
      GPU_AUTOSCALER_SCALEWAY_ACCESS_KEY = scaleway_iam_api_key.daemon.access_key
      GPU_AUTOSCALER_SCALEWAY_SECRET_KEY = scaleway_iam_api_key.daemon.secret_key
    },
    var.extra_secrets,
  )
  secret_names = nonsensitive(toset(keys(local.secrets)))

  # Variables without which the daemon would not start; others may be a script's own. Not those in
  # comments, nor after $${, which stands for a plain one.
  unset = setsubtract(
    flatten(regexall("\\$\\{(GPU_AUTOSCALER_[A-Z0-9_]+)\\}", replace(jsonencode(local.config), "/\\$\\$\\{/", ""))),
    setunion(keys(local.environment), local.secret_names),
  )
}
