# Workers call out only: to ClearML, to registries, to object storage. A security group belongs to
# one zone, so there is one in each zone of queues.yaml.
resource "scaleway_instance_security_group" "workers" {
  for_each = local.zones

  name                    = "${var.name}-workers"
  description             = "Drops everything inbound"
  project_id              = local.project_id
  zone                    = each.key
  inbound_default_policy  = "drop"
  outbound_default_policy = "accept"
  stateful                = true # replies to what was asked come in
  tags                    = local.tags
}

locals {
  security_group_ids = { for zone, group in scaleway_instance_security_group.workers : zone => basename(group.id) }
}
