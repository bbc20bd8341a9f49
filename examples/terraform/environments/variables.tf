variable "endpoint" {
  description = "Keyfront's control plane."
  type        = string
  default     = "http://127.0.0.1:8081"
}

variable "keys" {
  description = "The folder of the public keys, each in a file such as dev-viewers.pem."
  type        = string
  default     = "keys"
}

variable "comment" {
  type    = string
  default = "files of ours"
}

variable "enabled" {
  description = "Whether viewers are served. Terraform disables a distribution by itself before it destroys it."
  type        = bool
  default     = true
}

variable "wait" {
  description = "Whether Terraform waits until every edge obeys: it looks for the first time after half a minute."
  type        = bool
  default     = true
}

variable "environments" {
  type = map(object({
    origin            = object({ host = string, port = number })
    aliases           = optional(list(string), [])
    https_only        = optional(bool, true)
    ttl               = object({ min = number, default = number, max = number }) # seconds
    blocked_countries = optional(list(string), [])                               # ISO 3166-1 alpha-2
  }))

  default = {
    dev = {
      origin     = { host = "localhost", port = 8000 }
      https_only = false
      ttl        = { min = 0, default = 0, max = 60 }
    }
    staging = {
      origin            = { host = "staging.example.com", port = 80 }
      aliases           = ["staging.files.example.com"]
      ttl               = { min = 0, default = 300, max = 3600 }
      blocked_countries = ["KP"]
    }
    prod = {
      origin            = { host = "origin.example.com", port = 80 }
      aliases           = ["files.example.com", "*.files.example.com"]
      ttl               = { min = 60, default = 86400, max = 31536000 }
      blocked_countries = ["KP", "IR", "SY"]
    }
  }
}
