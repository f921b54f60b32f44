variable "name" {
  type        = string
  description = "Begins the names of what is made"
  default     = "holdfast"
}

variable "region" {
  type        = string
  description = "AWS offers SEV-SNP in these two only"

  validation {
    condition     = contains(["us-east-2", "eu-west-1"], var.region)
    error_message = "SEV-SNP is offered in us-east-2 and eu-west-1."
  }
}

variable "vpc_id" {
  type        = string
  description = "The VPC of the appliance, connected to the network of the HSM"
}

variable "subnet_ids" {
  type        = list(string)
  description = "Private subnets in at least two Availability Zones; the appliance runs in the first"

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "KMS wants the load balancer in two Availability Zones."
  }
}

variable "image_id" {
  type        = string
  description = "The AMI of Holdfast"
}

variable "instance_type" {
  type        = string
  description = "One on which AWS offers SEV-SNP"
  default     = "m6a.large"

  validation {
    condition     = can(regex("^(m6a\\.(large|[248]?xlarge)|c6a\\.(large|[248]?xlarge|1[26]xlarge)|r6a\\.(large|[24]?xlarge))$", var.instance_type))
    error_message = "SEV-SNP is offered on m6a up to 8xlarge, c6a up to 16xlarge, r6a up to 4xlarge."
  }
}

variable "state_volume_gib" {
  type        = number
  description = "Size of the state volume; nearly all of it is for the audit log"
  default     = 32
}

variable "admin_cidr" {
  type        = string
  description = "The network of your administrators, who reach the console on port 9443"

  validation {
    condition     = can(cidrhost(var.admin_cidr, 0)) && try(tonumber(split("/", var.admin_cidr)[1]) >= 8, false)
    error_message = "An IPv4 network, nothing larger than /8."
  }
}

variable "hsm_cidr" {
  type        = string
  description = "The network of the HSMs"
}

variable "hsm_ports" {
  type        = tuple([number, number])
  description = "First and last TCP port of the HSMs: [2223, 2225] for AWS CloudHSM"
}

variable "private_dns_name" {
  type        = string
  description = "The name by which KMS calls the appliance, in a public domain of yours; the subject of the TLS certificate"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$", var.private_dns_name)) && length(var.private_dns_name) <= 120
    error_message = "private_dns_name is a fully qualified name such as xks.example.com, without https:// and port: KMS takes no other."
  }
}

variable "setup_code_sha256" {
  type        = string
  description = "SHA-256 (hex) of a setup code of your own; without it the appliance prints one on the serial console"
  default     = null
  sensitive   = true
}

variable "alarm_topic_arn" {
  type        = string
  description = "SNS topic that the alarms notify"
  default     = null
}

variable "key_store" {
  type        = object({ name = string, uri_path_prefix = string })
  description = "The key store in KMS and its URI path prefix in Holdfast (without /kms/xks/v1, which is added), such as { name = \"payments\", uri_path_prefix = \"/payments\" }; unset until the appliance serves"
  default     = null
}

variable "xks_access_key_id" {
  type        = string
  description = "The credential that the console of Holdfast showed"
  default     = null
}

variable "xks_secret_access_key" {
  type        = string
  description = "Its secret"
  default     = null
  sensitive   = true
}
