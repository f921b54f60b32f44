package authz

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestDoubtfulViaServices: a via service that can be neither of the forms that AWS documents is doubted, in
// a grant and in Cedar; those that can are not.
func TestDoubtfulViaServices(t *testing.T) {
	for v, doubted := range map[string]bool{
		"ebs": false, "dynamodb": false, "dynamodb.us-east-1.amazonaws.com": false, "dynamodb.*.amazonaws.com": false, "dynamodb*": false, "*": false,
		"*.amazonaws.com": false, "s3.*": false, "ec2.us-gov-west-1.amazonaws.com": false, "s?": false, "e*s": false, "replication.dynamodb": false,
		"replication.dynamodb.eu-west-1.amazonaws.com": false, "dynamodb.??-east-1.amazonaws.com": false, "secretsmanager.*-1.amazonaws.com": false,
		"dynamodb.amazonaws.com": true, "dynamo": true, "dynamodb.us-east-1": true, "dynamodb.us-east-1.amazonaws.com.cn": true, "dynamodb.*.amazonaws.eu": true,
		"dynamodb.mars.amazonaws.com": true, ".": true, "dynamodb.": true, "*.": true, "-.*": false, "dynamodb..amazonaws.com": true, "?.amazonaws.com": true, "dynamo.us-east-1.amazonaws.com": true,
	} {
		r := &Rule{Principal: "*", Conditions: Conditions{ViaServices: []string{"ebs", v}}}
		if err := r.Mistake(); err != nil {
			t.Errorf("%s: %v", v, err)
		}
		err := r.Doubt()
		if (err != nil) != doubted || err != nil && (!strings.Contains(err.Error(), fmt.Sprintf("%q", v)) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %v", v, err)
		}
		comparison := "=="
		if strings.Contains(v, "*") {
			comparison = "like"
		} else if strings.Contains(v, "?") {
			continue // no wildcard in Cedar
		}
		text := fmt.Sprintf(`forbid (principal, action, resource) when { context has viaService && context.viaService %s %q };`, comparison, v)
		if err := DoubtInCedar(text); (err != nil) != doubted {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestViaServiceExample: the example of the documentation matches what either document says that KMS
// sends, and nothing else.
func TestViaServiceExample(t *testing.T) {
	text, err := os.ReadFile("../../docs/authorization.md")
	if err != nil {
		t.Fatal(err)
	}
	const example = "holdfast grant add payments --principal 123456789012 "
	_, line, ok := strings.Cut(string(text), example)
	if !ok {
		t.Fatalf("there is no example %q", example)
	}
	line, _, _ = strings.Cut(line, "\n")
	var values []string
	for _, found := range regexp.MustCompile(`--via-service '?([^ ']+)`).FindAllStringSubmatch(line, -1) {
		values = append(values, found[1])
	}
	r := &Rule{Principal: "*", Conditions: Conditions{ViaServices: values}}
	if err := r.Doubt(); err != nil {
		t.Error(err)
	}
	for sent, matches := range map[string]bool{"dynamodb": true, "dynamodb.us-east-1.amazonaws.com": true, "dynamodb.cn-north-1.amazonaws.com": true, "ebs": false, "dynamodbx": false, "s3.us-east-1.amazonaws.com": false} {
		got := false
		for _, v := range values {
			got = got || match(v, sent)
		}
		if got != matches {
			t.Errorf("%q of %q: %v", values, sent, got)
		}
	}
}
