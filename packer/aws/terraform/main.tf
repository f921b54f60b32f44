# An example: what ../holdfast.yaml makes, for Terraform, and the key store in KMS besides. It
# leaves out the broker, the OpenID provider, and some of the alarms. No IAM role, no key pair,
# no secrets for the appliance: why not is said there.
#
# In three steps, since KMS takes the key store only when the appliance serves:
#   terraform apply                            network, appliance, endpoint service
#   make the TXT record of the outputs, wait; set the appliance up in its console
#   terraform apply -var key_store=... and the two variables of the credential
# docs/deploy-aws.md has what lies between. This has not been applied on AWS.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}

provider "aws" {
  region = var.region
}

# -- Network ------------------------------------------------------------------

# No inbound rule: only KMS's calls through the endpoint service get in. Terraform removes
# EC2's rule that lets everything out.
resource "aws_security_group" "balancer" {
  name_prefix = "${var.name}-balancer-"
  description = "Holdfast load balancer - nothing in, XKS out to the appliance"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_egress_rule" "balancer_to_appliance" {
  security_group_id            = aws_security_group.balancer.id
  description                  = "XKS and its health check"
  ip_protocol                  = "tcp"
  from_port                    = 8443
  to_port                      = 8443
  referenced_security_group_id = aws_security_group.appliance.id
}

resource "aws_security_group" "appliance" {
  name_prefix = "${var.name}-appliance-"
  description = "Holdfast appliance"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "xks" {
  security_group_id            = aws_security_group.appliance.id
  description                  = "XKS, from the load balancer"
  ip_protocol                  = "tcp"
  from_port                    = 8443
  to_port                      = 8443
  referenced_security_group_id = aws_security_group.balancer.id
}

resource "aws_vpc_security_group_ingress_rule" "console" {
  security_group_id = aws_security_group.appliance.id
  description       = "console, admin API, evidence"
  ip_protocol       = "tcp"
  from_port         = 9443
  to_port           = 9443
  cidr_ipv4         = var.admin_cidr
}

resource "aws_vpc_security_group_egress_rule" "hsm" {
  security_group_id = aws_security_group.appliance.id
  description       = "HSMs"
  ip_protocol       = "tcp"
  from_port         = var.hsm_ports[0]
  to_port           = var.hsm_ports[1]
  cidr_ipv4         = var.hsm_cidr
}

# -- Instance -----------------------------------------------------------------

resource "aws_launch_template" "appliance" {
  name_prefix             = "${var.name}-"
  image_id                = var.image_id
  instance_type           = var.instance_type
  disable_api_termination = true # to terminate it is to lose its NitroTPM, and the state

  cpu_options {
    amd_sev_snp = "enabled" # at launch or never
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    instance_metadata_tags      = "disabled"
  }

  network_interfaces {
    device_index                = 0
    subnet_id                   = var.subnet_ids[0]
    security_groups             = [aws_security_group.appliance.id]
    associate_public_ip_address = false
  }

  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      volume_type           = "gp3"
      encrypted             = true
      delete_on_termination = true
    }
  }

  # The state. Only this instance's NitroTPM opens it, so it is no backup.
  block_device_mappings {
    device_name = "/dev/xvdb"
    ebs {
      volume_type           = "gp3"
      volume_size           = var.state_volume_gib
      encrypted             = true
      delete_on_termination = false
    }
  }

  # Untrusted input to the appliance: who may become the first administrator, and no more.
  user_data = base64encode(jsonencode(merge(
    { holdfast = 1 },
    var.setup_code_sha256 == null ? {} : { setup_code_sha256 = var.setup_code_sha256 },
  )))

  tag_specifications {
    resource_type = "instance"
    tags          = { Name = var.name }
  }
}

resource "aws_instance" "appliance" {
  launch_template {
    id      = aws_launch_template.appliance.id
    version = aws_launch_template.appliance.latest_version
  }

  # A new instance has an empty state. Whoever wants one removes this after a backup.
  lifecycle {
    prevent_destroy = true
  }
}

# -- From KMS to the appliance ------------------------------------------------

resource "aws_lb" "this" {
  name_prefix                                                  = "hf-"
  load_balancer_type                                           = "network"
  internal                                                     = true
  subnets                                                      = var.subnet_ids
  security_groups                                              = [aws_security_group.balancer.id]
  enable_cross_zone_load_balancing                             = true
  enforce_security_group_inbound_rules_on_private_link_traffic = "off"
}

resource "aws_lb_target_group" "xks" {
  name_prefix = "hf-"
  vpc_id      = var.vpc_id
  target_type = "instance"
  protocol    = "TCP"
  port        = 8443

  # The appliance's TLS comes first on a connection: it would refuse the PROXY protocol.
  proxy_protocol_v2 = false

  # Without a client certificate, also where xks.client_ca demands one of KMS.
  health_check {
    protocol            = "HTTPS"
    port                = "8443"
    path                = "/readyz"
    matcher             = "200"
    interval            = 10
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }
}

resource "aws_lb_target_group_attachment" "appliance" {
  target_group_arn = aws_lb_target_group.xks.arn
  target_id        = aws_instance.appliance.id
  port             = 8443
}

# TCP and not TLS: TLS ends in the appliance, whose evidence names the key.
resource "aws_lb_listener" "xks" {
  load_balancer_arn = aws_lb.this.arn
  protocol          = "TCP"
  port              = 443

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.xks.arn
  }
}

resource "aws_vpc_endpoint_service" "xks" {
  acceptance_required        = false
  network_load_balancer_arns = [aws_lb.this.arn]
  private_dns_name           = var.private_dns_name
  allowed_principals         = ["cks.kms.${var.region}.amazonaws.com"]
}

# -- The key store in KMS -----------------------------------------------------

# Terraform keeps the credential in its state in clear. Where that is not wanted leave key_store
# unset, and use "aws kms create-custom-key-store" instead. It does not connect the key store;
# the output "connect" does.
resource "aws_kms_custom_key_store" "this" {
  count = var.key_store == null ? 0 : 1

  custom_key_store_name               = var.key_store.name
  custom_key_store_type               = "EXTERNAL_KEY_STORE"
  xks_proxy_connectivity              = "VPC_ENDPOINT_SERVICE"
  xks_proxy_vpc_endpoint_service_name = aws_vpc_endpoint_service.xks.service_name
  xks_proxy_uri_endpoint              = "https://${var.private_dns_name}"
  xks_proxy_uri_path                  = "${var.key_store.uri_path_prefix}/kms/xks/v1"

  xks_proxy_authentication_credential {
    access_key_id         = var.xks_access_key_id
    raw_secret_access_key = var.xks_secret_access_key
  }
}

# -- Alarms -------------------------------------------------------------------

locals {
  key_store_id  = one(aws_kms_custom_key_store.this[*].id)
  alarm_actions = var.alarm_topic_arn == null ? [] : [var.alarm_topic_arn]
}

resource "aws_cloudwatch_metric_alarm" "unhealthy" {
  alarm_name          = "${var.name}-unhealthy"
  alarm_description   = "Holdfast does not serve. It may be locked - the console says why, or GET /boot"
  namespace           = "AWS/NetworkELB"
  metric_name         = "UnHealthyHostCount"
  dimensions          = { LoadBalancer = aws_lb.this.arn_suffix, TargetGroup = aws_lb_target_group.xks.arn_suffix }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 2
  threshold           = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "breaching"
  alarm_actions       = local.alarm_actions
}

resource "aws_cloudwatch_metric_alarm" "status" {
  alarm_name          = "${var.name}-status"
  alarm_description   = "EC2 finds the instance or its host impaired"
  namespace           = "AWS/EC2"
  metric_name         = "StatusCheckFailed"
  dimensions          = { InstanceId = aws_instance.appliance.id }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 2
  threshold           = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  alarm_actions       = local.alarm_actions
}

resource "aws_cloudwatch_metric_alarm" "errors" {
  count = var.key_store == null ? 0 : 1

  alarm_name          = "${var.name}-errors"
  alarm_description   = "KMS gets errors or no answer in time from the key store"
  evaluation_periods  = 1
  threshold           = 5
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions

  metric_query {
    id          = "errors"
    expression  = "SELECT SUM(XksProxyErrors) FROM \"AWS/KMS\" WHERE CustomKeyStoreId = '${local.key_store_id}'"
    period      = 60
    return_data = true
  }
}

resource "aws_cloudwatch_metric_alarm" "certificate" {
  count = var.key_store == null ? 0 : 1

  alarm_name          = "${var.name}-certificate"
  alarm_description   = "The TLS certificate expires in less than 21 days; after that nothing decrypts"
  namespace           = "AWS/KMS"
  metric_name         = "XksProxyCertificateDaysToExpire"
  dimensions          = { CustomKeyStoreId = local.key_store_id, CertificateName = var.private_dns_name }
  statistic           = "Minimum"
  period              = 300
  evaluation_periods  = 1
  threshold           = 21
  comparison_operator = "LessThanThreshold"
  alarm_actions       = local.alarm_actions
}
