package authz

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// services are the names of AWS services that IAM knows as principals, NAME.amazonaws.com,
// as of November 2026. There will be others: who knows one says so ([Rule.Doubt]).
var services = strings.Fields(`
	access-analyzer account acm acm-pca airflow airflow-env amplify apigateway app-integrations appconfig appflow
	application-autoscaling applicationinsights appmesh apprunner appstream appsync aps athena auditmanager autoscaling
	backup backup-storage batch bedrock bedrock-agentcore billing billingconsole braket budgets
	ce chatbot chime cks.kms cleanrooms cloud9 clouddirectory cloudformation cloudfront cloudhsm cloudtrail cloudwatch
	codeartifact codebuild codecommit codedeploy codeguru-profiler codeguru-reviewer codepipeline codestar
	codestar-notifications cognito-identity cognito-idp cognito-sync comprehend compute-optimizer config connect
	connect-campaigns controltower cost-optimization-hub cur custom.rds customer-profiles
	databrew dataexchange datapipeline datasync datazone dax deadline delivery.logs detective devicefarm devops-guru
	directconnect dlm dms docdb-elastic drs ds dsql dynamodb
	ebs ec2 ec2fleet ecr ecs ecs-tasks edgelambda eks eks-fargate-pods elasticache elasticbeanstalk elasticfilesystem
	elasticloadbalancing elasticmapreduce elastictranscoder emr-containers emr-serverless entityresolution es events export.rds
	finspace firehose fis fms forecast frauddetector fsx
	gamelift globalaccelerator glue grafana greengrass groundstation guardduty
	health healthlake iam identitystore imagebuilder importexport inspector inspector2 internetmonitor iot iotanalytics
	iotevents iotfleetwise iotsitewise iotthingsgraph iottwinmaker ivs
	kafka kafkaconnect kendra kinesis kinesisanalytics kinesisvideo kms
	lakeformation lambda launchwizard lex lexv2 license-manager lightsail location logs logger.cloudfront lookoutmetrics lookoutvision
	m2 macie macie2 malware-protection.guardduty managedblockchain mediaconnect mediaconvert medialive mediapackage
	mediastore mediatailor medical-imaging memorydb metering-marketplace mgh mgn migrationhub monitoring mq
	neptune-graph network-firewall networkmanager nimble
	oam omics opensearchservice opsworks organizations osis outposts
	panorama payment-cryptography pcs personalize pinpoint pipes polly pricing profile proton
	q qapps qbusiness qldb quicksight
	ram rbin rds redshift redshift-serverless rekognition replication.dynamodb replicator.lambda resiliencehub
	resource-explorer-2 resource-groups robomaker rolesanywhere route53 route53domains route53resolver rum
	s3 s3-outposts s3tables sagemaker scheduler scn schemas secretsmanager securityhub securitylake
	serverlessrepo servicecatalog servicediscovery servicequotas ses shield signer simspaceweaver sms-voice snowball
	sns spotfleet sqs ssm ssm-contacts ssm-incidents ssm-sap ssmmessages sso states storagegateway streams.metrics.cloudwatch
	sts support swf synthetics
	tagging textract timestream timestream-influxdb tnb transcribe transfer translate trustedadvisor
	verified-access voiceid vpc-flow-logs vpc-lattice vpcpeering vpn waf waf-regional wafv2 wam wellarchitected wisdom
	workdocs worklink workmail workspaces workspaces-web xray`)

// serviceDomains are the domains of the partitions.
var serviceDomains = []string{"amazonaws.com", "amazonaws.com.cn", "amazonaws.eu", "c2s.ic.gov", "sc2s.sgov.gov", "csp.hci.ic.gov", "cloud.adc-e.uk"}

// Names as IAM takes them: of users, roles and sessions, behind paths.
const (
	iamName = `[\w+=,.@-]{1,64}`
	iamPath = `([!-.0-~]{1,512}/)*`
)

// principalResources are what the resources of principals are, in iam and in sts.
var principalResources = map[string][]*regexp.Regexp{
	"iam": {
		regexp.MustCompile(`^root$`),
		regexp.MustCompile(`^user/` + iamPath + iamName + `$`),
		regexp.MustCompile(`^role/` + iamPath + iamName + `$`),
	},
	"sts": {
		regexp.MustCompile(`^assumed-role/` + iamName + `/[\w+=,.@-]{2,64}$`),
		regexp.MustCompile(`^federated-user/[\w+=,.@-]{2,32}$`),
	},
}

// resourceBeginnings are how they begin, for patterns.
var resourceBeginnings = map[string][]string{
	"iam": {"root", "user/", "role/"},
	"sts": {"assumed-role/", "federated-user/"},
}

// Doubt says in one line why the principal is none of the forms that IAM has; nil if it is
// one. KMS may send it all the same, if AWS has got a new service or partition: who knows
// that it does can make the rule.
func (r *Rule) Doubt() error {
	if err := doubtfulPrincipal(r.Principal); err != nil {
		return fmt.Errorf("principal %q: %w", r.Principal, err)
	}
	return nil
}

func doubtfulPrincipal(p string) error {
	if err := mistakenPrincipal(p); err != nil {
		return err
	}
	if servicePrincipal.MatchString(p) {
		return doubtfulService(p)
	}
	a, ok := splitARN(p)
	if !ok {
		return nil // all, an account, or KMS itself
	}
	for service, forms := range principalResources {
		if !match(a.service, service) {
			continue
		}
		if hasWildcard(a.resource) && mayBegin(a.resource, resourceBeginnings[service]...) {
			return nil
		}
		if slices.ContainsFunc(forms, func(f *regexp.Regexp) bool { return f.MatchString(a.resource) }) {
			return nil
		}
	}
	return fmt.Errorf("a principal is arn:PARTITION:iam::ACCOUNT:root, user/NAME or role/NAME, or arn:PARTITION:sts::ACCOUNT:assumed-role/ROLE/SESSION or federated-user/NAME; names have at most 64 letters, digits and _+=,.@-")
}

// doubtfulService judges NAME.DOMAIN and NAME.REGION.DOMAIN.
func doubtfulService(p string) error {
	name := p
	for _, domain := range serviceDomains {
		if cut, ok := strings.CutSuffix(p, "."+domain); ok {
			name = cut
		}
	}
	if cut := strings.LastIndexByte(name, '.'); cut > 0 && regionName.MatchString(name[cut+1:]) {
		name = name[:cut]
	}
	if slices.Contains(services, name) {
		return nil
	}
	return fmt.Errorf("no AWS service is known by the name %q; AWS documents the principal of each service, such as dynamodb.amazonaws.com", name)
}
