package aws_test

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

// configuration is what HCL files say.
type configuration struct {
	// values has the source of each argument by its path, such as
	// aws_lb.this.internal; blocks of one name one after the other.
	values map[string][]string
	// names has the arguments and blocks that each block uses, by its path without
	// the name, such as aws_launch_template.cpu_options.
	names map[string][]string
	// declared has what can be referred to: var.region, aws_lb.this, local.x.
	declared map[string]bool
	used     map[string]bool
}

func parseHCL(t *testing.T, files map[string]string) configuration {
	t.Helper()
	c := configuration{map[string][]string{}, map[string][]string{}, map[string]bool{}, map[string]bool{}}
	for name, text := range files {
		f, diagnostics := hclsyntax.ParseConfig([]byte(text), name, hcl.InitialPos)
		if diagnostics.HasErrors() {
			t.Fatal(diagnostics)
		}
		for _, b := range f.Body.(*hclsyntax.Body).Blocks {
			labels := b.Labels
			switch b.Type {
			case "variable":
				c.declared["var."+labels[0]] = true
			case "locals":
				for name := range b.Body.Attributes {
					c.declared["local."+name] = true
				}
			case "resource":
				c.declared[strings.Join(labels, ".")] = true
			}
			kind := append([]string{b.Type}, labels...)
			if (b.Type == "resource" || b.Type == "source") && len(labels) == 2 {
				c.body(b.Body, strings.Join(labels, "."), labels[0], text)
			} else {
				c.body(b.Body, strings.Join(kind, "."), "", text)
			}
		}
	}
	return c
}

func (c *configuration) body(b *hclsyntax.Body, path, kind, text string) {
	for name, a := range b.Attributes {
		r := a.Expr.Range()
		c.values[path+"."+name] = append(c.values[path+"."+name], text[r.Start.Byte:r.End.Byte])
		c.names[kind] = append(c.names[kind], name)
		for _, v := range a.Expr.Variables() {
			if len(v) > 1 {
				if second, ok := v[1].(hcl.TraverseAttr); ok {
					c.used[v.RootName()+"."+second.Name] = true
				}
			}
		}
	}
	for _, n := range b.Blocks {
		c.names[kind] = append(c.names[kind], n.Type)
		inner := kind
		if kind != "" {
			inner += "." + n.Type
		}
		c.body(n.Body, strings.Join(append([]string{path, n.Type}, n.Labels...), "."), inner, text)
	}
}

// published reads the names that a plugin publishes, by the path of the block.
func published(t *testing.T, file string) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for line := range strings.Lines(read(t, filepath.Join("testdata", file))) {
		if path, names, ok := strings.Cut(line, ": "); ok && !strings.HasPrefix(line, "#") {
			found[path] = strings.Fields(names)
		}
	}
	if len(found) == 0 {
		t.Fatalf("%s is empty", file)
	}
	return found
}

// unknown gives the names that the plugin does not publish, and references to nothing.
func (c configuration) unknown(known map[string][]string, meta ...string) (wrong []string) {
	for kind, names := range c.names {
		if kind == "" {
			continue
		}
		for _, name := range names {
			if !slices.Contains(known[kind], name) && !slices.Contains(meta, name) && !slices.Contains(meta, kind+"."+name) && !strings.HasSuffix(kind, ".lifecycle") {
				wrong = append(wrong, kind+" has no "+name)
			}
		}
	}
	for name := range c.used {
		root, _, _ := strings.Cut(name, ".")
		if (root == "var" || root == "local" || strings.HasPrefix(root, "aws_")) && !c.declared[name] {
			wrong = append(wrong, "there is no "+name)
		}
	}
	for name := range c.declared {
		if strings.HasPrefix(name, "var.") && !c.used[name] {
			wrong = append(wrong, name+" is not used")
		}
	}
	return wrong
}

// differ gives the arguments whose source is not as it must be; "" is for one that must
// not be there.
func (c configuration) differ(want map[string]string) (wrong []string) {
	for path, source := range want {
		if got := strings.Join(c.values[path], " "); got != source {
			wrong = append(wrong, path+" = "+got)
		}
	}
	return wrong
}

// formatted checks that "terraform fmt" and "packer fmt" would leave a file as it is.
func formatted(t *testing.T, name, text string) {
	t.Helper()
	if string(hclwrite.Format([]byte(text))) != text {
		t.Errorf("%s is not formatted", name)
	}
}

func terraform(t *testing.T) map[string]string {
	files, err := filepath.Glob("terraform/*.tf")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	texts := map[string]string{}
	for _, f := range files {
		texts[f] = read(t, f)
		formatted(t, f, texts[f])
	}
	return texts
}

// terraformFindings is all that is wrong with the Terraform example.
func terraformFindings(t *testing.T, files map[string]string) []string {
	c := parseHCL(t, files)
	wrong := c.unknown(published(t, "terraform-provider-aws.txt"), "count", "aws_instance.lifecycle")
	wrong = append(wrong, c.differ(map[string]string{
		"aws_launch_template.appliance.cpu_options.amd_sev_snp":                        `"enabled"`,
		"aws_launch_template.appliance.metadata_options.http_tokens":                   `"required"`,
		"aws_launch_template.appliance.metadata_options.http_put_response_hop_limit":   `1`,
		"aws_launch_template.appliance.metadata_options.instance_metadata_tags":        `"disabled"`,
		"aws_launch_template.appliance.block_device_mappings.ebs.encrypted":            `true true`,
		"aws_launch_template.appliance.disable_api_termination":                        `true`,
		"aws_launch_template.appliance.key_name":                                       "",
		"aws_launch_template.appliance.iam_instance_profile.name":                      "",
		"aws_launch_template.appliance.network_interfaces.associate_public_ip_address": `false`,
		"aws_instance.appliance.lifecycle.prevent_destroy":                             `true`,
		"aws_instance.appliance.iam_instance_profile":                                  "",
		"aws_lb.this.internal":           `true`,
		"aws_lb.this.load_balancer_type": `"network"`,
		"aws_lb.this.enforce_security_group_inbound_rules_on_private_link_traffic": `"off"`,
		"aws_lb_listener.xks.protocol":                                             `"TCP"`,
		"aws_lb_target_group.xks.health_check.path":                                `"/readyz"`,
		"aws_lb_target_group.xks.proxy_protocol_v2":                                `false`,
		"aws_vpc_endpoint_service.xks.acceptance_required":                         `false`,
		"aws_vpc_endpoint_service.xks.allowed_principals":                          `["cks.kms.${var.region}.amazonaws.com"]`,
		"aws_vpc_security_group_ingress_rule.console.cidr_ipv4":                    `var.admin_cidr`,
		"aws_vpc_security_group_ingress_rule.xks.referenced_security_group_id":     `aws_security_group.balancer.id`,
		"aws_kms_custom_key_store.this.xks_proxy_connectivity":                     `"VPC_ENDPOINT_SERVICE"`,
		"aws_kms_custom_key_store.this.custom_key_store_type":                      `"EXTERNAL_KEY_STORE"`,
		"variable.admin_cidr.default":                                              "",
		"variable.setup_code_sha256.sensitive":                                     `true`,
		"variable.setup_code_sha256.default":                                       `null`,
		"variable.xks_secret_access_key.sensitive":                                 `true`,
		"variable.xks_secret_access_key.default":                                   `null`,
		"variable.region.validation.condition":                                     `contains(["us-east-2", "eu-west-1"], var.region)`,
	})...)
	for path, sources := range c.values {
		if strings.HasPrefix(path, "aws_vpc_security_group_ingress_rule.") && strings.Contains(path, ".cidr_") && !slices.Equal(sources, []string{"var.admin_cidr"}) {
			wrong = append(wrong, path)
		}
	}
	// The same sizes as in the CloudFormation template.
	pattern := regexp.MustCompile(`"(\^.*\$)"`).FindStringSubmatch(strings.Join(c.values["variable.instance_type.validation.condition"], ""))
	if pattern == nil || strings.ReplaceAll(pattern[1], `\\`, `\`) != withSNP.String() {
		wrong = append(wrong, "instance_type")
	}
	return wrong
}

func TestTerraform(t *testing.T) {
	files := terraform(t)
	for _, finding := range terraformFindings(t, files) {
		t.Error(finding)
	}

	for _, m := range []struct{ file, old, new string }{
		{"main", "amd_sev_snp = \"enabled\"", "sev_snp = \"enabled\""},
		{"main", "xks_proxy_uri_path   ", "xks_proxy_path   "},
		{"main", "http_tokens                 = \"required\"", "http_tokens                 = \"optional\""},
		{"main", "cidr_ipv4         = var.admin_cidr", "cidr_ipv4         = \"0.0.0.0/0\""},
		{"main", "internal                                                     = true", "internal                                                     = false"},
		{"main", "aws_vpc_endpoint_service.xks.service_name\n  xks_proxy_uri_endpoint", "aws_vpc_endpoint_service.kms.service_name\n  xks_proxy_uri_endpoint"},
		{"main", "proxy_protocol_v2 = false", "proxy_protocol_v2 = true"},
		{"main", "acceptance_required        = false", "acceptance_required        = true"},
		{"main", "image_id                = var.image_id", "image_id                = var.image\n  key_name = \"mine\""},
		{"variables", "variable \"admin_cidr\" {", "variable \"admin_cidr\" {\n  default = \"10.0.0.0/8\""},
		{"variables", "m6a\\\\.", "m7a\\\\."},
	} {
		mutants := map[string]string{}
		for name, text := range files {
			if name == "terraform/"+m.file+".tf" {
				text = mutation{old: m.old, new: m.new}.apply(t, text)
			}
			mutants[name] = text
		}
		if len(terraformFindings(t, mutants)) == 0 {
			t.Errorf("finds nothing after %q became %q", m.old, m.new)
		}
	}
}

// packerFindings is all that is wrong with the Packer template.
func packerFindings(t *testing.T, text string) []string {
	c := parseHCL(t, map[string]string{"aws.pkr.hcl": text})
	const source = "amazon-ebssurrogate.holdfast."
	wrong := c.unknown(published(t, "packer-plugin-amazon.txt"))
	return append(wrong, c.differ(map[string]string{
		source + "boot_mode":                                 `"uefi"`,
		source + "tpm_support":                               `"v2.0"`,
		source + "uefi_data":                                 `trimspace(file(var.uefi_data))`,
		source + "imds_support":                              `"v2.0"`,
		source + "ena_support":                               `true`,
		source + "ami_architecture":                          `"x86_64"`,
		source + "encrypt_boot":                              `false`,
		source + "launch_block_device_mappings.encrypted":    `false`,
		source + "launch_block_device_mappings.device_name":  `"/dev/xvdf"`,
		source + "ami_root_device.source_device_name":        `"/dev/xvdf"`,
		source + "ami_root_device.device_name":               `"/dev/xvda"`, // as the launch templates map it
		source + "temporary_security_group_source_public_ip": `true`,
		source + "access_key":                                "",
		source + "secret_key":                                "",
		"packer.required_plugins.amazon":                     "{\n      source  = \"github.com/hashicorp/amazon\"\n      version = \">= 1.3.0\"\n    }",
		"build.provisioner.file.source":                      `"${path.root}/aws/write-disk.sh" var.image`,
		"build.provisioner.shell.inline":                     `["sudo bash /tmp/write-disk.sh /tmp/holdfast.raw blank ${var.image_sha256}"]`,
		"build.provisioner.file.destination":                 `"/tmp/write-disk.sh" "/tmp/holdfast.raw"`,
		"variable.region.default":                            `"us-east-1"`, // where Marketplace takes it from
		"variable.copy_to.default":                           `["us-east-2", "eu-west-1"]`,
	})...)
}

func TestPacker(t *testing.T) {
	text := read(t, "../aws.pkr.hcl")
	formatted(t, "aws.pkr.hcl", text)
	for _, finding := range packerFindings(t, text) {
		t.Error(finding)
	}
	for _, m := range []mutation{
		{old: "tpm_support             = ", new: "nitro_tpm = "},
		{old: "  boot_mode ", new: "  bootmode "},
		{old: "source_device_name    = \"/dev/xvdf\"", new: "source_device_name    = \"/dev/xvdg\""},
		{old: "imds_support            = \"v2.0\"", new: "imds_support            = \"v1.0\""},
		{old: "most_recent = true", new: "newest = true"},
		{old: "encrypt_boot            = false", new: "encrypt_boot            = true"},
		{old: "trimspace(file(var.uefi_data))", new: "trimspace(file(var.uefi))"},
		{old: "volume_size           = var.volume_gib\n    delete_on_termination = true\n    encrypted ", new: "volume_gib           = var.volume_gib\n    delete_on_termination = true\n    encrypted "},
	} {
		if len(packerFindings(t, m.apply(t, text))) == 0 {
			t.Errorf("finds nothing after %q became %q", m.old, m.new)
		}
	}
}
