"""What could be wrong in `terraform/`."""

Change = tuple[str, str, str]
"""A file, what stands there, and what is written instead."""

MISTAKES: dict[str, tuple[Change, str]] = {
    "a misspelt argument": (
        ("container.tf", "min_scale = 1", "min_scael = 1"),
        "Unsupported argument: .*min_scael",
    ),
    "a misspelt block": (
        ("container.tf", "liveness_probe {", "livenes_probe {"),
        "Unsupported block type: .*livenes_probe",
    ),
    "an argument of another kind": (
        ("container.tf", "max_scale = 1", "max_scale = [1]"),
        "Incorrect attribute value type: .*max_scale",
    ),
    "a missing argument": (
        ("job.tf", "image_uri   = local.image", ""),
        "Missing required argument: .*image_uri",
    ),
    "a resource that is none": (
        ("job.tf", "scaleway_job_definition", "scaleway_job_definitions"),
        "Invalid resource type",
    ),
    "a deprecated argument": (
        ("container.tf", "memory_limit_bytes = 256 * 1000 * 1000", "memory_limit = 256"),
        "Argument is deprecated: memory_limit: Please use memory_limit_bytes",
    ),
    "a deprecated block": (
        (
            "container.tf",
            'liveness_probe {\n    interval          = "30s"\n    timeout           = "5s"',
            'health_check {\n    interval = "30s"',
        ),
        "Argument is deprecated: health_check: Please use liveness_probe",
    ),
    "a deprecated attribute": (
        (
            "container.tf",
            "${scaleway_registry_namespace.main.endpoint}",
            "${scaleway_container_namespace.main.registry_endpoint}",
        ),
        'Deprecated value used: .*"registry_endpoint"',
    ),
    "a deprecated resource": (
        (
            "job.tf",
            "# Acts when",
            'resource "scaleway_container_cron" "warm" {\n'
            '  container_id = scaleway_container.daemon[0].id\n  schedule = "* * * * *"\n'
            '  args = "{}"\n}\n# Acts when',
        ),
        "Deprecated Resource: scaleway_container_cron",
    ),
    "a permission set that does not exist": (
        ("iam.tf", '"InstancesFullAccess",', '"InstanceFullAccess",'),
        "No such permission set: InstanceFullAccess does not exist",
    ),
    "a variable of the platform's": (
        (
            "container.tf",
            "environment_variables = local",
            'environment_variables = { SCW_A = "b" } #',
        ),
        "Reserved variable: SCW_A",
    ),
    "a variable that is too long": (
        (
            "container.tf",
            "environment_variables = local",
            'environment_variables = { A = join("", [for _ in range(1001) : "a"]) } #',
        ),
        "Variable too long: A has more than 1000 characters",
    ),
}
"""What is changed, and what is said then (a regular expression)."""

SLIPS: dict[str, Change] = {
    "two daemons": ("container.tf", "max_scale = 1", "max_scale = 2"),
    "http": ("container.tf", "https_connections_only = true", "https_connections_only = false"),
    "open to all": ("container.tf", '? "private" : "public"', '? "public" : "public"'),
    "a secret in plain sight": (
        "main.tf",
        "GPU_AUTOSCALER_CONFIG_REGION = var.region",
        "GPU_AUTOSCALER_CONFIG_REGION = nonsensitive(var.clearml_secret_key)",
    ),
    "an open door": ("network.tf", '= "drop"', '= "accept"'),
    "a key for ever": ("iam.tf", "= var.api_key_expires_at\n", "= null\n"),
    "a cleaner that fights the daemon": ("job.tf", ', "--if-lease-older-than", "10m"', ""),
    "a permission more": (
        "iam.tf",
        '"ObjectStorageObjectsWrite",',
        '"ObjectStorageObjectsWrite", "ObjectStorageObjectsDelete",',
    ),
    "permissions everywhere": (
        "iam.tf",
        "project_ids = [local.project_id]",
        "organization_id = local.project_id",
    ),
    "another project": ("container.tf", 'image"\n  project_id  = local.project_id', 'image"'),
}
"""What Terraform takes, and its tests do not."""
