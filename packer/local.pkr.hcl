# Boots the image that packer/image/build made on a virtual machine here, has it show
# what it is, and hands it on with its checksum and a manifest. packer/local/run calls
# this: a TPM has to be there before the machine, and Packer has no step for that.
#
# For Packer 1.6.6, which Debian has. QEMU emulates the processor: KVM is not needed.

variable "image" {
  type        = string
  description = "The raw disk"
  default     = "build/image/holdfast.raw"
}

variable "output" {
  type        = string
  description = "Folder to make, for the disk, its checksum and the manifest"
  default     = "build/packer"
}

variable "machine" {
  type        = string
  description = "Folder of the machine: vars.fd (firmware's variables), state.raw (empty disk), tpm.sock (of swtpm), monitor.in and monitor.out (FIFOs)"
  default     = "build/machine"
}

variable "firmware" {
  type        = string
  description = "UEFI firmware"
  default     = "/usr/share/OVMF/OVMF_CODE_4M.fd"
}

variable "secure_boot" {
  type        = bool
  description = "The firmware is of the kind that enforces Secure Boot, and protects its variables by SMM"
  default     = false
}

variable "policy_key" {
  type        = string
  description = "Public key that the image's policy is signed by"
  default     = "build/keys/policy.pub"
}

source "qemu" "holdfast" {
  # The disk is taken as it is: not resized, not converted, not compacted.
  iso_url          = var.image
  iso_checksum     = "none"
  disk_image       = true
  format           = "raw"
  skip_resize_disk = true
  disk_interface   = "virtio"
  output_directory = var.output
  vm_name          = "holdfast.raw"

  # Nobody can log in, and nobody can ask the appliance to power off: the check below
  # ends the machine, and Packer waits for that.
  communicator     = "none"
  shutdown_timeout = "1m"

  accelerator = "tcg"
  headless    = true
  disable_vnc = true
  memory      = 1024
  # One processor, as in packer/boottest: under QEMU's emulation of several the kernel now
  # and then dies while it rewrites its own code.
  cpus = 1

  # The disks are NVMe, as on EC2, and need no module. What the machine writes to the
  # first is thrown away, so that the disk handed on is the one that was built.
  # "restrict" keeps the machine from every network. This host's kernel chooses the port
  # that leads to the administrators' listener; the monitor tells which.
  qemuargs = [
    ["-nodefaults", ""],
    ["-no-reboot", ""],
    ["-display", "none"],
    ["-vnc", "none"],
    ["-machine", "q35,smm=on"],
    ["-accel", "tcg,thread=single"],
    ["-cpu", "max"],
    ["-global", "driver=cfi.pflash01,property=secure,value=${var.secure_boot ? "on" : "off"}"],
    ["-drive", "if=pflash,format=raw,unit=0,readonly=on,file=${var.firmware}"],
    ["-drive", "if=pflash,format=raw,unit=1,file=${var.machine}/vars.fd"],
    ["-drive", "if=none,id=root,format=raw,snapshot=on,file=${var.output}/holdfast.raw"],
    ["-drive", "if=none,id=state,format=raw,file=${var.machine}/state.raw"],
    ["-device", "nvme,drive=root,serial=root,bootindex=1"],
    ["-device", "nvme,drive=state,serial=state"],
    ["-chardev", "socket,id=tpm,path=${var.machine}/tpm.sock"],
    ["-tpmdev", "emulator,id=tpm,chardev=tpm"],
    ["-device", "tpm-crb,tpmdev=tpm"],
    ["-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:9443"],
    ["-device", "virtio-net-pci,netdev=net,romfile="],
    ["-serial", "file:${var.machine}/console"],
    ["-monitor", "pipe:${var.machine}/monitor"],
    ["-pidfile", "${var.machine}/qemu.pid"],
  ]
}

build {
  sources = ["source.qemu.holdfast"]

  # It runs on this host while the machine does.
  provisioner "shell-local" {
    script = "${path.root}/local/check"
    environment_vars = [
      "MACHINE=${var.machine}",
      "IMAGE=${var.image}",
      "POLICY_KEY=${var.policy_key}",
    ]
  }

  post-processors {
    post-processor "shell-local" {
      inline = ["cmp '${var.image}' '${var.output}/holdfast.raw'"]
    }
    post-processor "checksum" {
      checksum_types = ["sha256"]
      output         = "${var.output}/holdfast.raw.sha256"
    }
    post-processor "manifest" {
      output     = "${var.output}/manifest.json"
      strip_path = true
    }
  }
}
