# What people get wrong is said before anything is made.
variables {
  config_file        = "queues.example.yaml"
  clearml_access_key = "clearml-access"
  clearml_secret_key = "clearml-secret"
  api_key_expires_at = "2099-01-01T00:00:00Z"
}

run "reserved_name" {
  command = plan
  variables {
    extra_secrets = { SCW_SECRET_KEY = "x" }
  }
  expect_failures = [var.extra_secrets]
}

run "secret_with_a_variable_of_its_own" {
  command = plan
  variables {
    extra_secrets = { GPU_AUTOSCALER_API_TOKEN = "0123456789abcdef0123" }
  }
  expect_failures = [var.extra_secrets]
}

run "long_secret" {
  command = plan
  variables {
    extra_secrets = { GPU_AUTOSCALER_NOTIFY_URL = join("", [for _ in range(1001) : "x"]) }
  }
  expect_failures = [var.extra_secrets]
}

run "short_token" {
  command = plan
  variables {
    api_token = "secret"
  }
  expect_failures = [var.api_token]
}

run "expired_key" {
  command = plan
  variables {
    api_key_expires_at = "2020-01-01T00:00:00Z"
  }
  expect_failures = [var.api_key_expires_at]
}

run "no_date" {
  command = plan
  variables {
    api_key_expires_at = "next summer"
  }
  expect_failures = [var.api_key_expires_at]
}

run "moving_tag" {
  command = plan
  variables {
    image_tag = "latest"
  }
  expect_failures = [var.image_tag]
}

run "no_project" {
  command = plan
  variables {
    project_id = "my-project"
  }
  expect_failures = [var.project_id]
}

run "no_file" {
  command = plan
  variables {
    config_file = "missing.yaml"
  }
  expect_failures = [var.config_file]
}

run "no_yaml" {
  command = plan
  variables {
    config_file = "README.md"
  }
  expect_failures = [var.config_file]
}

run "no_store" {
  command = plan
  variables {
    config_file = "tests/no-store.yaml"
  }
  expect_failures = [scaleway_object.config]
}

run "variable_that_nothing_sets" {
  command = plan
  variables {
    config_file = "tests/unset.yaml"
  }
  expect_failures = [scaleway_object.config]
}
