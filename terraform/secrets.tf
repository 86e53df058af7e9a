# For the cleaning job, which takes its secrets from here. A container cannot: it has its own copy.
# Both are in Terraform's state, too, so keep that in a private bucket (backend.tf.example).
resource "scaleway_secret" "daemon" {
  for_each = local.secret_names

  name        = each.key
  path        = "/${var.name}"
  description = "Variable of the GPU autoscaler's cleaning job"
  project_id  = local.project_id
  tags        = local.tags
}

resource "scaleway_secret_version" "daemon" {
  for_each = local.secret_names

  secret_id = scaleway_secret.daemon[each.key].id
  data      = local.secrets[each.key]
}
