# terraform test, against a provider that is faked (../tests/terraform): what must not change unnoticed.
variables {
  config_file        = "queues.example.yaml"
  image_tag          = "1.2.3"
  clearml_access_key = "clearml-access"
  clearml_secret_key = "clearml-secret"
  api_key_expires_at = "2099-01-01T00:00:00Z"
}

run "everything" {
  assert {
    condition     = scaleway_container.daemon[0].min_scale == 1 && scaleway_container.daemon[0].max_scale == 1
    error_message = "There is one daemon, always."
  }

  assert {
    condition     = scaleway_container.daemon[0].https_connections_only && scaleway_container.daemon[0].privacy == "private"
    error_message = "It is called over https, and by nobody who has no token."
  }

  assert {
    condition     = scaleway_container.daemon[0].sandbox == "v2" && scaleway_container.daemon[0].timeout == 60
    error_message = "It runs in gVisor, and no request to it goes on for long."
  }

  assert {
    condition     = scaleway_container.daemon[0].memory_limit_bytes == 256000000 && scaleway_container.daemon[0].cpu_limit == 140
    error_message = "256 MB go with 140 mvCPU; another size costs more, or starves it."
  }

  assert {
    condition = (
      one(one(scaleway_container.daemon[0].liveness_probe).http).path == "/healthz" &&
      one(one(scaleway_container.daemon[0].startup_probe).http).path == "/healthz"
    )
    error_message = "The platform asks /healthz."
  }

  assert {
    condition = (
      one(scaleway_container_trigger.warm[0].destination_config).http_path == "/healthz" &&
      one(scaleway_container_trigger.warm[0].cron).schedule == "* * * * *"
    )
    error_message = "Somebody calls /healthz every minute."
  }

  assert {
    condition = toset(keys(scaleway_container.daemon[0].secret_environment_variables)) == toset([
      "GPU_AUTOSCALER_CLEARML_ACCESS_KEY", "GPU_AUTOSCALER_CLEARML_SECRET_KEY",
      "GPU_AUTOSCALER_SCALEWAY_ACCESS_KEY", "GPU_AUTOSCALER_SCALEWAY_SECRET_KEY",
    ])
    error_message = "The daemon has the secrets that it needs, and no others."
  }

  assert {
    condition = length(setintersection(
      nonsensitive(toset(values(scaleway_container.daemon[0].secret_environment_variables))),
      toset(concat(values(scaleway_container.daemon[0].environment_variables), values(scaleway_job_definition.cleaner[0].env))),
    )) == 0
    error_message = "A secret stands in a plain variable."
  }

  assert {
    condition     = scaleway_job_definition.cleaner[0].args == tolist(["run", "--once", "--if-lease-older-than", "10m"])
    error_message = "The cleaner acts only when the daemon is gone."
  }

  assert {
    condition     = scaleway_job_definition.cleaner[0].image_uri == scaleway_container.daemon[0].image && endswith(scaleway_container.daemon[0].image, ":1.2.3")
    error_message = "Both run the image that was asked for."
  }

  assert {
    condition     = scaleway_job_definition.cleaner[0].env == scaleway_container.daemon[0].environment_variables
    error_message = "Both read the same configuration."
  }

  assert {
    condition = toset([for each in scaleway_job_definition.cleaner[0].secret_reference : each.environment]) == toset(keys(
      scaleway_container.daemon[0].secret_environment_variables
    ))
    error_message = "The cleaner has the daemon's secrets."
  }

  assert {
    condition = toset(one(scaleway_iam_policy.daemon.rule).permission_set_names) == toset([
      "InstancesFullAccess", "BlockStorageFullAccess", "ObjectStorageObjectsRead", "ObjectStorageObjectsWrite",
    ])
    error_message = "The daemon may do this and no more."
  }

  assert {
    condition = (
      one(scaleway_iam_policy.daemon.rule).project_ids == tolist([scaleway_account_project.own[0].id]) &&
      one(scaleway_iam_policy.daemon.rule).organization_id == null
    )
    error_message = "Its permissions end at its project."
  }

  assert {
    condition = (
      scaleway_iam_api_key.daemon.expires_at == "2099-01-01T00:00:00Z" &&
      scaleway_iam_api_key.daemon.application_id == scaleway_iam_application.daemon.id
    )
    error_message = "The key is the application's, and ends."
  }

  assert {
    condition = alltrue([
      for group in scaleway_instance_security_group.workers :
      group.inbound_default_policy == "drop" && length(group.inbound_rule) == 0 && group.stateful
    ])
    error_message = "Nothing comes in."
  }

  assert {
    condition     = keys(scaleway_instance_security_group.workers) == ["fr-par-2"]
    error_message = "Each zone of the configuration has a security group."
  }

  assert {
    condition     = !scaleway_registry_namespace.main.is_public && scaleway_object.config.visibility == "private"
    error_message = "Image and configuration are nobody else's business."
  }

  assert {
    condition = alltrue([
      for id in [
        scaleway_registry_namespace.main.project_id, scaleway_container_namespace.main.project_id,
        scaleway_object_bucket.main.project_id, scaleway_object.config.project_id,
        scaleway_instance_security_group.workers["fr-par-2"].project_id,
        scaleway_secret.daemon["GPU_AUTOSCALER_CLEARML_ACCESS_KEY"].project_id,
        scaleway_job_definition.cleaner[0].project_id, scaleway_iam_api_key.daemon.default_project_id,
      ] : id == scaleway_account_project.own[0].id
    ])
    error_message = "All of it is in one project."
  }
}

run "before_there_is_an_image" {
  variables {
    image_tag = null
  }

  assert {
    condition     = output.url == null && length(scaleway_job_definition.cleaner) == 0
    error_message = "Without an image nothing runs."
  }

  assert {
    condition     = strcontains(output.push_image, scaleway_registry_namespace.main.endpoint)
    error_message = "It says where the image goes."
  }
}

run "with_a_token_and_a_project" {
  variables {
    project_id         = "11111111-2222-3333-4444-555555555555"
    api_token          = "0123456789abcdef0123"
    private_network_id = "fr-par/99999999-2222-3333-4444-555555555555"
    extra_secrets      = { GPU_AUTOSCALER_NOTIFY_URL = "json://somewhere" }
  }

  assert {
    condition     = scaleway_container.daemon[0].privacy == "public"
    error_message = "Who has the token gets to the page."
  }

  assert {
    condition     = length(scaleway_account_project.own) == 0 && scaleway_object_bucket.main.project_id == var.project_id
    error_message = "It goes into the project that was named."
  }

  assert {
    condition     = contains(keys(scaleway_container.daemon[0].secret_environment_variables), "GPU_AUTOSCALER_API_TOKEN")
    error_message = "The daemon knows the token."
  }

  assert {
    condition = toset([for each in scaleway_job_definition.cleaner[0].secret_reference : each.environment]) == toset([
      "GPU_AUTOSCALER_CLEARML_ACCESS_KEY", "GPU_AUTOSCALER_CLEARML_SECRET_KEY",
      "GPU_AUTOSCALER_SCALEWAY_ACCESS_KEY", "GPU_AUTOSCALER_SCALEWAY_SECRET_KEY", "GPU_AUTOSCALER_NOTIFY_URL",
    ])
    error_message = "The cleaner answers nobody, so it has no token."
  }

  assert {
    condition     = scaleway_container.daemon[0].private_network_id == var.private_network_id
    error_message = "It is in the Private Network."
  }
}
