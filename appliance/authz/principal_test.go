package authz

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
)

// principalsOf makes good and bad principals of every partition, form and service.
func principalsOf() (good, bad []string) {
	const account = "123456789012"
	long := strings.Repeat("r", 64)
	forms := map[string]struct{ good, bad []string }{
		"iam": {
			[]string{"root", "user/Alice", "user/a/path/Alice", "role/app", "role/aws-reserved/sso.amazonaws.com/eu-west-1/AWSReservedSSO_Admin_0123456789abcdef", "role/" + long, "role/service-role/x+=,.@-_", "role/app-*", "role/*", "*", "user/A?ice", "r*"},
			[]string{"", "user", "user/", "role/", "role//", "role/a b", "role/" + long + "r", "role/app!", "rol/app", "group/admins", "assumed-role/app/session", "federated-user/bob", "root/x", "Root", "policy/p", "g*", "assumed-role/*"},
		},
		"sts": {
			[]string{"assumed-role/app/session", "assumed-role/app/*", "assumed-role/" + long + "/alice@example.com", "federated-user/bob", "*", "assumed*"},
			[]string{"assumed-role/app", "assumed-role/app/", "assumed-role/app/s", "assumed-role/path/app/session", "assumed-role//session", "role/app", "root", "user/Alice", "federated-user/", "role/*", "assumed-role/app/" + long + "s"},
		},
	}
	for _, partition := range partitions {
		for service, form := range forms {
			for _, resource := range form.good {
				good = append(good, fmt.Sprintf("arn:%s:%s::%s:%s", partition, service, account, resource))
			}
			for _, resource := range form.bad {
				bad = append(bad, fmt.Sprintf("arn:%s:%s::%s:%s", partition, service, account, resource))
			}
			for _, number := range []string{"", "1", account + "3", "12345678901x", "-12345678901", "aws"} {
				bad = append(bad, fmt.Sprintf("arn:%s:%s::%s:%s", partition, service, number, form.good[0]))
			}
			bad = append(bad, fmt.Sprintf("arn:%s:%s:eu-west-1:%s:%s", partition, service, account, form.good[0]), fmt.Sprintf("arn:%s:%s:%s:%s", partition, service, account, form.good[0]))
		}
		bad = append(bad, fmt.Sprintf("arn:%s:s3::%s:role/app", partition, account), fmt.Sprintf("arn:%sx:iam::%s:role/app", partition, account))
	}
	for _, service := range services {
		for _, domain := range serviceDomains {
			good = append(good, service+"."+domain, service+".eu-central-1."+domain)
			bad = append(bad, service+"x."+domain, "x."+service+"."+domain, service+".eu-central."+domain, service+"."+domain+".")
		}
		bad = append(bad, service, service+".amazonaws.con", service+".aws.amazon.com")
	}
	return append(good, "*", account, "AWS Internal"), append(bad, "amazonaws.com", "dynamo.amazonaws.com", "Dynamodb.amazonaws.com", "alice", account+"0")
}

// TestPrincipalsAsIAM: a principal of a form that IAM has is taken; any other one is doubted,
// in one line.
func TestPrincipalsAsIAM(t *testing.T) {
	good, bad := principalsOf()
	for _, p := range good {
		if err := cmp.Or((&Rule{Principal: p}).Mistake(), (&Rule{Principal: p}).Doubt()); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
	for _, p := range bad {
		r := &Rule{Principal: p}
		err := r.Doubt()
		if err == nil {
			t.Errorf("%q is not doubted", p)
		} else if !strings.HasPrefix(err.Error(), "principal ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", p, err)
		}
		if err := r.Mistake(); err != nil {
			t.Errorf("%q cannot be made by who knows it: %v", p, err)
		}
	}
	t.Logf("%d good, %d bad", len(good), len(bad))
}
