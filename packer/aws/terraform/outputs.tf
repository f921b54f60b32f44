output "console" {
  description = "Open it from the network admin_cidr"
  value       = "https://${aws_instance.appliance.private_ip}:9443"
}

output "dns_record" {
  description = "The TXT record that proves that the domain is yours"
  value       = aws_vpc_endpoint_service.xks.private_dns_name_configuration
}

output "verify_dns_name" {
  description = "Then have it verified; KMS connects to no other name"
  value       = "aws ec2 start-vpc-endpoint-service-private-dns-verification --region ${var.region} --service-id ${aws_vpc_endpoint_service.xks.id}"
}

output "endpoint_service_name" {
  value = aws_vpc_endpoint_service.xks.service_name
}

output "connect" {
  description = "Connects the key store; it takes about five minutes"
  value       = local.key_store_id == null ? null : "aws kms connect-custom-key-store --region ${var.region} --custom-key-store-id ${local.key_store_id}"
}
