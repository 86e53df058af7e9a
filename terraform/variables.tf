variable "name" {
  description = "Begins the names of everything that is made here."
  type        = string
  default     = "gpu-autoscaler"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "3 to 20 small letters, digits and hyphens, a letter first."
  }
}

variable "project_id" {
  description = "The Scaleway project for all of it. Left out, a project of its own is made, which keeps the daemon's permissions away from everything else you have: they reach a whole project, not single machines."
  type        = string
  default     = null

  validation {
    condition     = var.project_id == null || can(regex("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", var.project_id))
    error_message = "A project's id looks like 11111111-2222-3333-4444-555555555555; leave it out for a new project."
  }
}

variable "region" {
  description = "Where daemon, bucket and registry are. GPU machines may be in any zone: queues.yaml says which."
  type        = string
  default     = "fr-par"

  validation {
    condition     = contains(["fr-par", "nl-ams", "pl-waw"], var.region)
    error_message = "Serverless Containers exist in fr-par, nl-ams and pl-waw."
  }
}

variable "config_file" {
  description = "Your queues.yaml, uploaded as it is. The daemon picks a change up by itself."
  type        = string
  default     = "queues.yaml"

  validation {
    condition     = fileexists(var.config_file)
    error_message = "There is no such file. Begin with: cp queues.example.yaml queues.yaml"
  }

  validation {
    condition     = !fileexists(var.config_file) || can(values(yamldecode(file(var.config_file)).queues))
    error_message = "It is not YAML, or has no queues. This names the mistake and its line: gpu-autoscaler check --config FILE"
  }
}

variable "image_tag" {
  description = "Tag of the daemon's image in the registry that is made here. Left out, nothing runs yet: there is no image before there is a registry. A new tag is a new deployment."
  type        = string
  default     = null

  validation {
    condition     = var.image_tag == null || can(regex("^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$", var.image_tag))
    error_message = "A tag has letters, digits, points, hyphens and underscores."
  }

  validation {
    condition     = var.image_tag != "latest"
    error_message = "Give each image a tag of its own (a version, a commit): behind \"latest\" a change is never seen."
  }
}

variable "clearml_access_key" {
  description = "The daemon's key at ClearML; its agents use it, too, unless extra_secrets says otherwise."
  type        = string
  sensitive   = true

  validation {
    condition     = length(var.clearml_access_key) > 0 && length(var.clearml_access_key) <= 1000
    error_message = "1 to 1000 characters: the platform takes no more in a variable."
  }
}

variable "clearml_secret_key" {
  description = "The other half of clearml_access_key."
  type        = string
  sensitive   = true

  validation {
    condition     = length(var.clearml_secret_key) > 0 && length(var.clearml_secret_key) <= 1000
    error_message = "1 to 1000 characters: the platform takes no more in a variable."
  }
}

variable "api_token" {
  description = "Opens the daemon's status page and API. Left out, the container is private and nobody can look from outside."
  type        = string
  default     = null
  sensitive   = true

  validation {
    condition     = var.api_token == null || try(length(var.api_token) >= 20 && length(var.api_token) <= 1000, false)
    error_message = "20 to 1000 characters; make one with: openssl rand -hex 20"
  }
}

variable "extra_secrets" {
  description = "More secret variables of the daemon by their names, GPU_AUTOSCALER_NOTIFY_URL or GPU_AUTOSCALER_AGENT_GIT_PASSWORD for example (config/README.md has them all)."
  type        = map(string)
  default     = {}
  sensitive   = true

  validation {
    condition     = alltrue([for name in keys(var.extra_secrets) : can(regex("^GPU_AUTOSCALER(_[A-Z0-9]+)+$", name))])
    error_message = "The names begin with GPU_AUTOSCALER_, in capitals: the platform reserves SCW_* and PORT."
  }

  validation {
    condition     = alltrue([for value in values(var.extra_secrets) : length(value) > 0 && length(value) <= 1000])
    error_message = "1 to 1000 characters each: the platform takes no more in a variable."
  }

  validation {
    condition = length(setintersection(keys(var.extra_secrets), [
      "GPU_AUTOSCALER_CLEARML_ACCESS_KEY", "GPU_AUTOSCALER_CLEARML_SECRET_KEY",
      "GPU_AUTOSCALER_SCALEWAY_ACCESS_KEY", "GPU_AUTOSCALER_SCALEWAY_SECRET_KEY",
      "GPU_AUTOSCALER_API_TOKEN",
    ])) == 0
    error_message = "ClearML's keys and the API token have variables of their own here, and Scaleway's key is made."
  }
}

variable "api_key_expires_at" {
  description = "When the daemon's Scaleway key ends, like 2027-06-30T00:00:00Z. Another date makes another key and gives it to the daemon before the old one goes: so it is rotated."
  type        = string

  validation {
    condition     = try(timecmp(var.api_key_expires_at, plantimestamp()) > 0, false)
    error_message = "A moment in the future, like 2027-06-30T00:00:00Z."
  }
}

variable "private_network_id" {
  description = "A Private Network for the daemon's container, to reach a ClearML server in it. The cleaning job cannot join one: Serverless Jobs have none."
  type        = string
  default     = null
}
