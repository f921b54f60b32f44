// Package aws_test checks what brings Holdfast to AWS: the CloudFormation template against
// AWS Marketplace's rules and ours, the Terraform example and the Packer template against
// the arguments that their plugins publish, and the script that writes the disk.
//
// None of it has run on AWS. Each rule is broken once here, to show that its test can fail.
package aws_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// object is a mapping of a template. CloudFormation's short forms are in it as long ones:
// !Ref X is {"Ref": "X"}, !Sub X is {"Fn::Sub": "X"}.
type object = map[string]any

// parse reads a template.
func parse(text string) (object, error) {
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		return nil, err
	}
	v, err := plain(document.Content[0])
	if err != nil {
		return nil, err
	}
	template, ok := v.(object)
	if !ok {
		return nil, fmt.Errorf("not a mapping")
	}
	return template, nil
}

func plain(n *yaml.Node) (any, error) {
	if strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!") {
		name := "Fn::" + n.Tag[1:]
		if n.Tag == "!Ref" || n.Tag == "!Condition" {
			name = n.Tag[1:]
		}
		inner := *n
		inner.Tag = ""
		v, err := plain(&inner)
		return object{name: v}, err
	}
	switch n.Kind {
	case yaml.MappingNode:
		o := object{}
		for i := 0; i < len(n.Content); i += 2 {
			key := n.Content[i].Value
			if _, twice := o[key]; twice {
				return nil, fmt.Errorf("line %d: %s twice", n.Content[i].Line, key)
			}
			v, err := plain(n.Content[i+1])
			if err != nil {
				return nil, err
			}
			o[key] = v
		}
		return o, nil
	case yaml.SequenceNode:
		list := []any{}
		for _, c := range n.Content {
			v, err := plain(c)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	}
	var v any
	err := n.Decode(&v)
	return v, err
}

// at follows a path of keys and indexes: nil if it leads nowhere.
func at(v any, path ...string) any {
	for _, p := range path {
		switch w := v.(type) {
		case object:
			v = w[p]
		case []any:
			i, err := strconv.Atoi(p)
			if err != nil || i < 0 || i >= len(w) {
				return nil
			}
			v = w[i]
		default:
			return nil
		}
	}
	return v
}

// is says whether v is what this YAML says.
func is(v any, text string) bool {
	want, err := parse("v: " + text)
	if err != nil {
		panic(err)
	}
	a, _ := json.Marshal(v)
	b, _ := json.Marshal(want["v"])
	return string(a) == string(b)
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

// walk calls f for each mapping, with the path to it.
func walk(v any, path string, f func(path string, o object)) {
	switch w := v.(type) {
	case object:
		f(path, w)
		for _, k := range slices.Sorted(maps.Keys(w)) {
			walk(w[k], path+"."+k, f)
		}
	case []any:
		for i, e := range w {
			walk(e, fmt.Sprintf("%s.%d", path, i), f)
		}
	}
}

// resources gives the properties of all resources of a type, by name.
func resources(template object, kind string) map[string]object {
	found := map[string]object{}
	all, _ := template["Resources"].(object)
	for name, r := range all {
		if t, _ := at(r, "Type").(string); t == kind {
			p, _ := at(r, "Properties").(object)
			found[name] = p
		}
	}
	return found
}

// one gives the properties of the only resource of a type; none at all if there are more.
func one(template object, kind string) object {
	if found := resources(template, kind); len(found) == 1 {
		for _, p := range found {
			return p
		}
	}
	return nil
}

// render does what CloudFormation does with Sub, If, Ref and Base64 (which it leaves plain).
func render(template object, v any, parameters map[string]string) string {
	switch w := v.(type) {
	case nil:
		return ""
	case object:
		switch {
		case w["Ref"] != nil:
			return parameters[w["Ref"].(string)]
		case w["Fn::Base64"] != nil:
			return render(template, w["Fn::Base64"], parameters)
		case w["Fn::If"] != nil:
			// All conditions here are "is not empty".
			parameter, _ := at(template, "Conditions", at(w, "Fn::If", "0").(string), "Fn::Not", "0", "Fn::Equals", "0", "Ref").(string)
			if parameters[parameter] != "" {
				return render(template, at(w, "Fn::If", "1"), parameters)
			}
			return render(template, at(w, "Fn::If", "2"), parameters)
		case w["Fn::Sub"] != nil:
			text, own := w["Fn::Sub"], object{}
			if l, ok := text.([]any); ok {
				text, own = l[0], l[1].(object)
			}
			return reference.ReplaceAllStringFunc(text.(string), func(s string) string {
				name := s[2 : len(s)-1]
				if o, ok := own[name]; ok {
					return render(template, o, parameters)
				}
				return parameters[name]
			})
		}
	}
	return fmt.Sprint(v)
}

var reference = regexp.MustCompile(`\$\{[^!}][^}]*\}`)

// A rule gives what is wrong with a template.
type rule struct {
	name  string
	check func(t object) []string
}

func require(ok bool, finding string) []string {
	if ok {
		return nil
	}
	return []string{finding}
}

var rules = []rule{
	{"remote access has no default", func(t object) (wrong []string) {
		for name, p := range resources(t, "AWS::EC2::SecurityGroup") {
			for _, in := range list(p["SecurityGroupIngress"]) {
				if is(at(in, "SourceSecurityGroupId"), "null") {
					parameter, _ := at(in, "CidrIp", "Ref").(string)
					declared, _ := at(t, "Parameters", parameter).(object)
					pattern, _ := declared["AllowedPattern"].(string)
					_, hasDefault := declared["Default"]
					switch allowed, err := regexp.Compile(pattern); {
					case declared == nil:
						wrong = append(wrong, name+": a network that no parameter names")
					case hasDefault:
						wrong = append(wrong, parameter+" has a default")
					case err != nil || pattern == "" || allowed.MatchString("0.0.0.0/0") || !allowed.MatchString("10.1.2.0/24"):
						wrong = append(wrong, parameter+" takes 0.0.0.0/0, or nothing")
					}
				}
			}
		}
		return wrong
	}},
	{"nothing is open to everybody", func(t object) (wrong []string) {
		wrong = append(wrong, require(len(resources(t, "AWS::EC2::SecurityGroupIngress")) == 0, "a rule outside of its group, where this test does not look")...)
		for name, p := range resources(t, "AWS::EC2::SecurityGroup") {
			walk(p["SecurityGroupIngress"], name, func(path string, o object) {
				for _, key := range []string{"CidrIp", "CidrIpv6"} {
					if s, literal := o[key].(string); literal {
						wrong = append(wrong, path+" lets in "+s)
					}
				}
				if is(o["IpProtocol"], `"-1"`) || is(o["IpProtocol"], "-1") {
					wrong = append(wrong, path+" lets in every protocol")
				}
			})
			if list(p["SecurityGroupEgress"]) == nil {
				wrong = append(wrong, name+" lets everything out")
			}
		}
		return wrong
	}},
	{"only the load balancer reaches XKS", func(t object) (wrong []string) {
		for name, p := range resources(t, "AWS::EC2::SecurityGroup") {
			for _, in := range list(p["SecurityGroupIngress"]) {
				if is(at(in, "FromPort"), "8443") && !is(at(in, "SourceSecurityGroupId"), "!Ref BalancerGroup") {
					wrong = append(wrong, name)
				}
			}
		}
		wrong = append(wrong, require(is(at(t, "Resources", "Balancer", "Properties", "SecurityGroups"), "[!Ref BalancerGroup]"), "the load balancer has another group")...)
		return append(wrong, require(is(at(t, "Resources", "BalancerGroup", "Properties", "SecurityGroupIngress"), "null"), "the load balancer is open to the VPC")...)
	}},
	{"secrets are not shown", func(t object) (wrong []string) {
		secret := regexp.MustCompile(`(?i)secret|password|passphrase|token|credential|setupcode|privatekey|\bpin`)
		parameters, _ := t["Parameters"].(object)
		for name, p := range parameters {
			if secret.MatchString(name) {
				wrong = append(wrong, require(is(at(p, "NoEcho"), "true"), name+" without NoEcho")...)
				wrong = append(wrong, require(is(at(p, "Default"), `""`) || is(at(p, "Default"), "null"), name+" with a default")...)
			}
		}
		outputs, _ := t["Outputs"].(object)
		walk(outputs, "Outputs", func(path string, o object) {
			ref, _ := o["Ref"].(string)
			sub, _ := o["Fn::Sub"].(string)
			for name := range parameters {
				if secret.MatchString(name) && (ref == name || strings.Contains(sub, "${"+name+"}")) {
					wrong = append(wrong, path+" shows "+name)
				}
			}
		})
		return wrong
	}},
	{"IMDSv2", func(t object) []string {
		o := at(one(t, "AWS::EC2::LaunchTemplate"), "LaunchTemplateData", "MetadataOptions")
		return require(is(o, "{HttpEndpoint: enabled, HttpTokens: required, HttpPutResponseHopLimit: 1, InstanceMetadataTags: disabled}"), fmt.Sprint(o))
	}},
	{"SEV-SNP", func(t object) (wrong []string) {
		o := at(one(t, "AWS::EC2::LaunchTemplate"), "LaunchTemplateData", "CpuOptions")
		wrong = append(wrong, require(is(o, "{AmdSevSnp: enabled}"), fmt.Sprint(o))...)
		types := list(at(t, "Parameters", "InstanceType", "AllowedValues"))
		wrong = append(wrong, require(len(types) > 0, "any instance type")...)
		for _, size := range types {
			if s, _ := size.(string); !withSNP.MatchString(s) {
				wrong = append(wrong, s+" has no SEV-SNP")
			}
		}
		return append(wrong, require(is(at(t, "Rules", "Regions", "Assertions", "0", "Assert"), "!Contains [[us-east-2, eu-west-1], !Ref AWS::Region]"), "Regions without SEV-SNP")...)
	}},
	{"no rights in AWS", func(t object) (wrong []string) {
		// If a role is needed some day, it gets here with a reason for each action.
		walk(t["Resources"], "Resources", func(path string, o object) {
			if kind, _ := o["Type"].(string); strings.HasPrefix(kind, "AWS::IAM::") {
				wrong = append(wrong, path+" is a "+kind)
			}
			if o["IamInstanceProfile"] != nil {
				wrong = append(wrong, path+" has an instance profile")
			}
			for _, key := range []string{"Action", "Resource", "Principal"} {
				if text, _ := json.Marshal(o[key]); strings.Contains(string(text), "*") {
					wrong = append(wrong, path+"."+key+" is "+string(text))
				}
			}
		})
		return wrong
	}},
	{"no way in by SSH", func(t object) (wrong []string) {
		walk(t, "", func(path string, o object) {
			for key, v := range o {
				if key == "KeyName" || v == "AWS::EC2::KeyPair::KeyName" || v == "AWS::EC2::KeyPair" {
					wrong = append(wrong, path+" names a key pair")
				}
				if port := fmt.Sprint(v); (key == "FromPort" || key == "ToPort") && (port == "22" || port == "0") {
					wrong = append(wrong, path+" has port "+port)
				}
			}
		})
		return wrong
	}},
	{"no public address", func(t object) (wrong []string) {
		l := list(at(one(t, "AWS::EC2::LaunchTemplate"), "LaunchTemplateData", "NetworkInterfaces"))
		wrong = require(len(l) == 1, "one network interface")
		for _, i := range l {
			wrong = append(wrong, require(is(at(i, "AssociatePublicIpAddress"), "false"), "a public address")...)
		}
		return append(wrong, require(len(resources(t, "AWS::EC2::EIP")) == 0, "an elastic address")...)
	}},
	{"volumes are encrypted", func(t object) (wrong []string) {
		n := 0
		walk(t["Resources"], "Resources", func(path string, o object) {
			if ebs, ok := o["Ebs"].(object); ok {
				n++
				wrong = append(wrong, require(is(ebs["Encrypted"], "true"), fmt.Sprint(path, o["DeviceName"]))...)
			}
		})
		for name, p := range resources(t, "AWS::EC2::Volume") {
			wrong = append(wrong, require(is(p["Encrypted"], "true"), name)...)
		}
		return append(wrong, require(n == 2, "root and state")...)
	}},
	{"no instance is lost by mistake", func(t object) (wrong []string) {
		data := at(one(t, "AWS::EC2::LaunchTemplate"), "LaunchTemplateData")
		wrong = append(wrong, require(is(at(data, "DisableApiTermination"), "true"), "no termination protection")...)
		wrong = append(wrong, require(is(at(t, "Resources", "Appliance", "UpdateReplacePolicy"), "Retain"), "an update ends the old instance")...)
		return append(wrong, require(is(at(data, "BlockDeviceMappings", "1", "Ebs", "DeleteOnTermination"), "false"), "the state goes with the instance")...)
	}},
	{"user data", func(t object) (wrong []string) {
		data := at(one(t, "AWS::EC2::LaunchTemplate"), "LaunchTemplateData", "UserData")
		hash := strings.Repeat("0a", 32)
		for want, parameters := range map[string]map[string]string{
			`{"holdfast":1}`: {},
			`{"holdfast":1,"setup_code_sha256":"` + hash + `"}`: {"SetupCodeSha256": hash},
		} {
			got := render(t, data, parameters)
			wrong = append(wrong, require(strings.ReplaceAll(got, " ", "") == want, got)...)
		}
		for name, cases := range map[string]map[string]bool{
			"SetupCodeSha256": {"": true, hash: true, `"`: false, hash[1:]: false},
		} {
			pattern, _ := at(t, "Parameters", name, "AllowedPattern").(string)
			for value, may := range cases {
				// CloudFormation's patterns are anchored anyway; ours say so.
				wrong = append(wrong, require(pattern != "" && regexp.MustCompile(pattern).MatchString(value) == may, name+" "+value)...)
			}
		}
		return wrong
	}},
	{"the load balancer is internal, in two zones, and passes TCP", func(t object) (wrong []string) {
		b := one(t, "AWS::ElasticLoadBalancingV2::LoadBalancer")
		wrong = append(wrong, require(is(b["Type"], "network") && is(b["Scheme"], "internal"), fmt.Sprint(b["Type"], b["Scheme"]))...)
		subnets := map[string]bool{}
		for _, s := range list(b["Subnets"]) {
			subnets[fmt.Sprint(s)] = true
		}
		wrong = append(wrong, require(len(subnets) >= 2, "fewer than two subnets")...)
		wrong = append(wrong, require(is(b["EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic"], `"off"`), "KMS's calls are dropped")...)
		l := one(t, "AWS::ElasticLoadBalancingV2::Listener")
		wrong = append(wrong, require(is(l["Protocol"], "TCP") && is(l["Port"], "443"), "the listener is not TCP 443")...)
		g := one(t, "AWS::ElasticLoadBalancingV2::TargetGroup")
		wrong = append(wrong, require(is(g["Protocol"], "TCP") && is(g["Port"], "8443") && is(at(g, "Targets", "0", "Port"), "8443"), "the target is not TCP 8443")...)
		wrong = append(wrong, require(is(g["TargetGroupAttributes"], `[{Key: proxy_protocol_v2.enabled, Value: "false"}]`), "the PROXY protocol is not switched off")...)
		return append(wrong, require(is(g["HealthCheckProtocol"], "HTTPS") && is(g["HealthCheckPath"], "/readyz") && is(g["Matcher"], `{HttpCode: "200"}`), "the health check")...)
	}},
	{"KMS, and nobody else, may use the endpoint service", func(t object) (wrong []string) {
		s := one(t, "AWS::EC2::VPCEndpointService")
		wrong = append(wrong, require(is(s["AcceptanceRequired"], "false"), "KMS waits for somebody to accept")...)
		wrong = append(wrong, require(is(s["PrivateDnsName"], "!Ref PrivateDnsName"), "no private DNS name")...)
		wrong = append(wrong, require(is(at(t, "Outputs", "DnsRecordValue", "Value"), "!GetAtt EndpointService.PrivateDnsNameConfiguration.Value"), "the TXT record is not shown")...)
		p := at(one(t, "AWS::EC2::VPCEndpointServicePermissions"), "AllowedPrincipals")
		return append(wrong, require(is(p, "[!Sub 'cks.kms.${AWS::Region}.amazonaws.com']"), fmt.Sprint(p))...)
	}},
	{"alarms", func(t object) (wrong []string) {
		text := ""
		for name, p := range resources(t, "AWS::CloudWatch::Alarm") {
			text += fmt.Sprint(p["MetricName"], " ", at(p, "Metrics", "0", "Expression"), "\n")
			_, action := p["AlarmActions"]
			wrong = append(wrong, require(action, name+" tells nobody")...)
		}
		for _, metric := range []string{"UnHealthyHostCount", "StatusCheckFailed", "XksProxyErrors", "XksProxyLatency",
			"XksExternalKeyManagerStates", "XksProxyCertificateDaysToExpire", "XksProxyCredentialAge"} {
			wrong = append(wrong, require(strings.Contains(text, metric), "none for "+metric)...)
		}
		return wrong
	}},
	{"every name is somebody's", func(t object) (wrong []string) {
		used := map[string]bool{}
		see := func(path, name string, own object) {
			name, _, _ = strings.Cut(name, ".")
			used[name] = true
			if own[name] == nil && at(t, "Parameters", name) == nil && at(t, "Resources", name) == nil && !slices.Contains(pseudo, name) {
				wrong = append(wrong, path+": "+name)
			}
		}
		walk(t, "", func(path string, o object) {
			if name, ok := o["Ref"].(string); ok {
				see(path, name, nil)
			}
			switch w := o["Fn::GetAtt"].(type) {
			case string:
				see(path, w, nil)
			case []any:
				see(path, fmt.Sprint(w[0]), nil)
			}
			if sub, ok := o["Fn::Sub"]; ok {
				own := object{}
				if l := list(sub); len(l) == 2 {
					sub, own = l[0], l[1].(object)
				}
				text, _ := sub.(string)
				for _, m := range reference.FindAllString(text, -1) {
					see(path, m[2:len(m)-1], own)
				}
			}
			names := []any{at(o, "Fn::If", "0")}
			if strings.Count(path, ".") == 2 { // of a resource or an output
				names = append(names, o["Condition"])
			}
			for _, name := range names {
				if s, ok := name.(string); ok {
					wrong = append(wrong, require(at(t, "Conditions", s) != nil, path+": condition "+s)...)
				}
			}
		})
		parameters, _ := t["Parameters"].(object)
		for name := range parameters {
			wrong = append(wrong, require(used[name], name+" is not used")...)
		}
		return wrong
	}},
}

var pseudo = []string{"AWS::Region", "AWS::StackName", "AWS::NoValue", "AWS::AccountId", "AWS::Partition", "AWS::StackId", "AWS::URLSuffix"}

// withSNP are the instance types on which AWS offers SEV-SNP.
var withSNP = regexp.MustCompile(`^(m6a\.(large|[248]?xlarge)|c6a\.(large|[248]?xlarge|1[26]xlarge)|r6a\.(large|[24]?xlarge))$`)

func TestTemplates(t *testing.T) {
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) == 0 || len(files) > 3 {
		t.Fatalf("Marketplace takes one to three templates: %v, %v", files, err)
	}
	for _, file := range files {
		template, err := parse(read(t, file))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, r := range rules {
			for _, finding := range r.check(template) {
				t.Errorf("%s: %s: %s", file, r.name, finding)
			}
		}
	}
}

// A mutation breaks a rule by replacing a text that stands once in the file, all if many.
type mutation struct {
	rule     string
	old, new string
	many     bool
}

func (m mutation) apply(t *testing.T, text string) string {
	t.Helper()
	if n := strings.Count(text, m.old); n == 0 || n > 1 && !m.many {
		t.Fatalf("%q stands %d times in the file", m.old, n)
	}
	return strings.ReplaceAll(text, m.old, m.new)
}

func TestRulesCanFail(t *testing.T) {
	text := read(t, "holdfast.yaml")
	adminCidr := "who reach the console on port 9443; nothing larger than /8\n"
	template := "      LaunchTemplateData:\n"
	broken := map[string]bool{}
	for _, m := range []mutation{
		{rule: "remote access has no default", old: adminCidr, new: adminCidr + "    Default: 10.0.0.0/8\n"},
		{rule: "remote access has no default", old: adminCidr + `    AllowedPattern: ^([0-9]{1,3}\.){3}[0-9]{1,3}/([89]|[12][0-9]|3[0-2])$`, new: adminCidr + `    AllowedPattern: ^.*$`},
		{rule: "remote access has no default", old: "CidrIp: !Ref AdminCidr", new: "CidrIp: !Ref VpcCidr"},
		{rule: "nothing is open to everybody", old: "CidrIp: !Ref AdminCidr", new: "CidrIp: 0.0.0.0/0"},
		{rule: "nothing is open to everybody", old: "CidrIp: !Ref AdminCidr", new: "CidrIpv6: ::/0"},
		{rule: "nothing is open to everybody", old: "Description: XKS, from the load balancer\n          IpProtocol: tcp", new: "IpProtocol: \"-1\""},
		{rule: "nothing is open to everybody", old: "SecurityGroupEgress:\n        - Description: HSMs", new: "SecurityGroupNoEgress:\n        - Description: HSMs"},
		{rule: "only the load balancer reaches XKS", old: "SourceSecurityGroupId: !Ref BalancerGroup", new: "CidrIp: !Ref AdminCidr"},
		{rule: "only the load balancer reaches XKS", old: "SecurityGroups: [!Ref BalancerGroup]", new: "SecurityGroups: [!Ref ApplianceGroup]"},
		{rule: "secrets are not shown", old: "    NoEcho: true\n", new: ""},
		{rule: "secrets are not shown", old: "    Default: \"\"\n    NoEcho: true\n", new: "    Default: x\n    NoEcho: true\n"},
		{rule: "secrets are not shown", old: "  InstanceId:\n    Value: !Ref Appliance", new: "  InstanceId:\n    Value: !Ref SetupCodeSha256"},
		{rule: "IMDSv2", old: "HttpTokens: required", new: "HttpTokens: optional"},
		{rule: "IMDSv2", old: "HttpPutResponseHopLimit: 1", new: "HttpPutResponseHopLimit: 2"},
		{rule: "SEV-SNP", old: "AmdSevSnp: enabled", new: "AmdSevSnp: disabled"},
		{rule: "SEV-SNP", old: "      - r6a.large\n", new: "      - r7a.large\n"},
		{rule: "SEV-SNP", old: "[us-east-2, eu-west-1]", new: "[us-east-2, eu-central-1]"},
		{rule: "no rights in AWS", old: template, new: template + "        IamInstanceProfile: { Name: admin }\n"},
		{rule: "no rights in AWS", old: "Resources:\n  #", new: "Resources:\n  Role:\n    Type: AWS::IAM::Role\n  #"},
		{rule: "no rights in AWS", old: "Resources:\n  #", new: "Resources:\n  Topic:\n    Type: AWS::SNS::TopicPolicy\n    Properties: { PolicyDocument: { Statement: [{ Action: \"sns:*\" }] } }\n  #"},
		{rule: "no way in by SSH", old: template, new: template + "        KeyName: mine\n"},
		{rule: "no way in by SSH", old: "          FromPort: 9443\n", new: "          FromPort: 22\n"},
		{rule: "no public address", old: "AssociatePublicIpAddress: false", new: "AssociatePublicIpAddress: true"},
		{rule: "volumes are encrypted", old: "Encrypted: true\n              DeleteOnTermination: false", new: "Encrypted: false\n              DeleteOnTermination: false"},
		{rule: "volumes are encrypted", old: "              Encrypted: true\n              DeleteOnTermination: true\n", new: "              DeleteOnTermination: true\n"},
		{rule: "no instance is lost by mistake", old: "DisableApiTermination: true", new: "DisableApiTermination: false"},
		{rule: "no instance is lost by mistake", old: "UpdateReplacePolicy: Retain", new: "UpdateReplacePolicy: Delete"},
		{rule: "no instance is lost by mistake", old: "DeleteOnTermination: false", new: "DeleteOnTermination: true"},
		{rule: "user data", old: `"setup_code_sha256": "`, new: `"setup_code_sha256": `},
		{rule: "user data", old: `{"holdfast": 1$`, new: `{"holdfast": 1, "pin": "1234"$`},
		{rule: "user data", old: "AllowedPattern: ^$|^[0-9a-f]{64}$", new: "AllowedPattern: ^$|^.+$"},
		{rule: "the load balancer is internal, in two zones, and passes TCP", old: "Scheme: internal", new: "Scheme: internet-facing"},
		{rule: "the load balancer is internal, in two zones, and passes TCP", old: "Subnets: [!Ref SubnetA, !Ref SubnetB]", new: "Subnets: [!Ref SubnetA, !Ref SubnetA]"},
		{rule: "the load balancer is internal, in two zones, and passes TCP", old: "Port: 443\n      Protocol: TCP", new: "Port: 443\n      Protocol: TLS"},
		{rule: "the load balancer is internal, in two zones, and passes TCP", old: "          Value: \"false\"\n", new: "          Value: \"true\"\n"},
		{rule: "the load balancer is internal, in two zones, and passes TCP", old: "/readyz", new: "/healthz"},
		{rule: "the load balancer is internal, in two zones, and passes TCP", old: `PrivateLinkTraffic: "off"`, new: `PrivateLinkTraffic: "on"`},
		{rule: "KMS, and nobody else, may use the endpoint service", old: "!Sub cks.kms.${AWS::Region}.amazonaws.com", new: `"*"`},
		{rule: "KMS, and nobody else, may use the endpoint service", old: "AcceptanceRequired: false", new: "AcceptanceRequired: true"},
		{rule: "KMS, and nobody else, may use the endpoint service", old: "      PrivateDnsName: !Ref PrivateDnsName\n", new: ""},
		{rule: "alarms", old: "MetricName: XksProxyCertificateDaysToExpire", new: "MetricName: XksProxyCertificate"},
		{rule: "every name is somebody's", old: "VpcId: !Ref VpcId\n      TargetType", new: "VpcId: !Ref Vpc\n      TargetType"},
		{rule: "every name is somebody's", old: "!GetAtt Targets.TargetGroupFullName", new: "!GetAtt Target.TargetGroupFullName"},
		{rule: "every name is somebody's", old: "https://${Appliance.PrivateIp}:9443\n", new: "https://${Instance.PrivateIp}:9443\n"},
		{rule: "every name is somebody's", old: "- HasBroker\n", new: "- HasABroker\n"},
		{rule: "every name is somebody's", old: "Condition: HasKeyStore", new: "Condition: HasStore", many: true},
		{rule: "every name is somebody's", old: "InstanceType: !Ref InstanceType", new: "InstanceType: m6a.large"},
	} {
		broken[m.rule] = true
		mutant, err := parse(m.apply(t, text))
		if err != nil {
			t.Errorf("%s: %q: %v", m.rule, m.new, err)
			continue
		}
		i := slices.IndexFunc(rules, func(r rule) bool { return r.name == m.rule })
		if i < 0 {
			t.Fatalf("there is no rule %q", m.rule)
		}
		if len(rules[i].check(mutant)) == 0 {
			t.Errorf("%s: finds nothing after %q became %q", m.rule, m.old, m.new)
		}
	}
	for _, r := range rules {
		if !broken[r.name] {
			t.Errorf("nothing shows that %q can fail", r.name)
		}
	}
	if _, err := parse("A: 1\nA: 2\n"); err == nil {
		t.Error("a name that stands twice is not noticed")
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
