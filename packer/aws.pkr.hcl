# Builds the AMI: the raw disk that the image build made, byte for byte, on a volume that is
# then registered with UEFI, NitroTPM and IMDSv2.
#
#   packer init packer/aws.pkr.hcl
#   packer build -var version=1.2.0 -var image_sha256=$(sha256sum < build/image/holdfast.raw | cut -c-64) packer/aws.pkr.hcl
#
# THIS HAS NOT BEEN RUN: where Holdfast is developed there is neither AWS nor a Packer that
# knows the plugin. What could be tested is: the names of all arguments against the plugin's
# own list (packer/aws/hcl_test.go), and writing the disk (aws/write-disk.sh), which is the
# only logic. Run "packer validate" first, and send us what it says.
#
# The instance that builds needs no SEV-SNP, and no builder has an option for it: SEV-SNP is
# chosen when an instance of the AMI is launched.

packer {
  required_version = ">= 1.7.0"
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.3.0"
    }
  }
}

variable "version" {
  type        = string
  description = "The release, as the image build named it"
}

variable "image" {
  type        = string
  description = "The raw disk"
  default     = "build/image/holdfast.raw"
}

variable "image_sha256" {
  type        = string
  description = "Its SHA-256 (hex), against which the written volume is read back"

  validation {
    condition     = can(regex("^[0-9a-f]{64}$", var.image_sha256))
    error_message = "The image_sha256 is 64 hexadecimal digits."
  }
}

variable "uefi_data" {
  type        = string
  description = "File with the UEFI variable store (PK, KEK, db of the release's Secure Boot keys) in AWS's base64 form"
  default     = "build/image/uefi-data.aws"
}

variable "volume_gib" {
  type        = number
  description = "Size of the root volume; EBS counts in GiB"
  default     = 1
}

variable "region" {
  type        = string
  description = "Where to build. Marketplace takes AMIs from us-east-1"
  default     = "us-east-1"
}

variable "copy_to" {
  type        = list(string)
  description = "The Regions with SEV-SNP"
  default     = ["us-east-2", "eu-west-1"]
}

source "amazon-ebssurrogate" "holdfast" {
  region        = var.region
  instance_type = "t3.small"

  # Debian's own account. Nothing of this system gets into the image.
  source_ami_filter {
    owners      = ["136693071363"]
    most_recent = true
    filters = {
      name                = "debian-13-amd64-*"
      architecture        = "x86_64"
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
  }

  communicator                              = "ssh"
  ssh_username                              = "admin"
  temporary_key_pair_type                   = "ed25519"
  temporary_security_group_source_public_ip = true # SSH from here only, not from everywhere

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  launch_block_device_mappings {
    device_name           = "/dev/xvdf"
    volume_type           = "gp3"
    volume_size           = var.volume_gib
    delete_on_termination = true
    encrypted             = false # Marketplace takes no encrypted snapshots; instances encrypt their copy
  }

  ami_name                = "holdfast-${var.version}"
  ami_description         = "Holdfast ${var.version}, an attested external key store for AWS KMS"
  ami_regions             = var.copy_to
  ami_architecture        = "x86_64"
  ami_virtualization_type = "hvm"
  boot_mode               = "uefi"
  tpm_support             = "v2.0"
  uefi_data               = trimspace(file(var.uefi_data))
  imds_support            = "v2.0"
  ena_support             = true
  encrypt_boot            = false

  ami_root_device {
    source_device_name    = "/dev/xvdf"
    device_name           = "/dev/xvda"
    volume_type           = "gp3"
    volume_size           = var.volume_gib
    delete_on_termination = true
  }

  tags = {
    Name   = "holdfast-${var.version}"
    SHA256 = var.image_sha256
  }
}

build {
  sources = ["source.amazon-ebssurrogate.holdfast"]

  provisioner "file" {
    source      = "${path.root}/aws/write-disk.sh"
    destination = "/tmp/write-disk.sh"
  }

  provisioner "file" {
    source      = var.image
    destination = "/tmp/holdfast.raw"
  }

  # "blank", since the kernel calls /dev/xvdf something like /dev/nvme1n1.
  provisioner "shell" {
    inline = ["sudo bash /tmp/write-disk.sh /tmp/holdfast.raw blank ${var.image_sha256}"]
  }

  post-processor "manifest" {
    output = "build/image/ami.json"
    custom_data = {
      version = var.version
      sha256  = var.image_sha256
    }
  }
}
