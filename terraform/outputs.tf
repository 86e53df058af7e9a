output "project_id" {
  description = "The project that holds all of it."
  value       = local.project_id
}

output "push_image" {
  description = "Commands that build the image and bring it to the registry under the tag $TAG."
  value       = <<-END
    echo "$SCW_SECRET_KEY" | docker login ${split("/", scaleway_registry_namespace.main.endpoint)[0]} -u nologin --password-stdin
    docker build --platform linux/amd64 -t ${scaleway_registry_namespace.main.endpoint}/gpu-autoscaler:$TAG ..
    docker push ${scaleway_registry_namespace.main.endpoint}/gpu-autoscaler:$TAG
  END
}

output "url" {
  description = "The status page; its password is api_token. Null while nothing runs."
  value       = var.image_tag == null ? null : scaleway_container.daemon[0].public_endpoint
}

output "bucket" {
  description = "Holds the daemon's memory and configuration."
  value       = scaleway_object_bucket.main.name
}

output "security_group_ids" {
  description = "Of the workers, by zone."
  value       = local.security_group_ids
}

output "secrets" {
  description = "The daemon's own keys and your extra_secrets, for your shell: eval \"$(terraform output -raw secrets)\""
  sensitive   = true
  value = join("\n", [
    for name in local.secret_names : "export ${name}='${replace(local.secrets[name], "'", "'\\''")}'"
  ])
}

output "environment" {
  description = "What queues.yaml is filled in with, for your shell: eval \"$(terraform output -raw environment)\""
  value = join("\n", [
    for name, value in local.environment : "export ${name}=${value}" if name != "GPU_AUTOSCALER_CONFIG"
  ])
}
