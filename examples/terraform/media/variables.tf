variable "endpoint" {
  description = "Keyfront's control plane."
  type        = string
  default     = "http://127.0.0.1:8081"
}

variable "keys" {
  description = "The folder of the public keys primary.pem and backup.pem."
  type        = string
  default     = "keys"
}

variable "bucket" {
  description = "The bucket's name at its S3 endpoint."
  type        = string
  default     = "media-library.s3.eu-central-1.amazonaws.com"
}

variable "comment" {
  type    = string
  default = "the media library"
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
