package authz

import "strings"

// services are the names of AWS services that IAM knows as principals, NAME.amazonaws.com. Sources:
// the service principals in AWS's managed policies (iam:AWSServiceName, iam:PassedToService,
// kms:ViaService and the paths of service-linked roles) as of 22 August 2026, from the copy in
// github.com/iann0036/iam-dataset; the table of kms:ViaService in the AWS KMS developer guide as of
// 19 May 2023, the last one on github.com/awsdocs; and names that earlier releases of Holdfast took.
// AWS publishes no list of all. There will be others: who knows one says so ([Rule.Doubt]).
var services = strings.Fields(`
	access-analyzer access-grants.s3 account acm acm-pca aco-automation agent-registry agent.wellarchitected
	agentless.inspector2 aiops airflow airflow-env airflow-serverless amplify apidestinations.events apigateway
	app-integrations appconfig appfabric appflow application-autoscaling application-insights
	application-signals.cloudwatch application-transformation applicationinsights appmesh apprunner appstream
	appstream.application-autoscaling appsync aps artifact assets.marketplace athena auditmanager autoscaling
	aws-external-anthropic
	backup backup-gateway backup-storage batch bedrock bedrock-agentcore bedrock-mantle billing billingconsole braket
	budgets bugbust
	cassandra cassandra-streams cassandra.application-autoscaling ce channels.lex channels.lexv2 chatbot chime cks.kms
	cleanrooms cleanrooms-ml cloud9 clouddirectory cloudformation cloudfront cloudhsm cloudtrail cloudwatch codeartifact
	codebuild codecatalyst codecatalyst-runner codecommit codedeploy codeguru-profiler codeguru-reviewer
	codeguru-security codepipeline codestar codestar-notifications cognito-identity cognito-identity-us-gov cognito-idp
	cognito-sync comprehend compute-optimizer config config-conforms connect connect-campaigns
	continuousexport.discovery contract.iq contributorinsights.dynamodb controltower cost-optimization-hub
	cost-optimization-hub.bcm credentials.iot crowd cur custom.rds customer-profiles
	databrew dataexchange datapipeline datasync datazone datazonecontrol dax deadline delivery.logs detective devicefarm
	devops-guru directconnect directoryservice directquery.opensearchservice dlm dms dmsintegration.migrationhub
	docdb-elastic drs ds dsql dynamodb dynamodb.application-autoscaling
	ebs ec2 ec2-images ec2.application-autoscaling ec2fastlaunch ec2fleet ec2scheduled ecr ecs ecs-compute ecs-tasks
	ecs.application-autoscaling edgelambda eks eks-fargate-pods elasticache elasticbeanstalk elasticfilesystem
	elasticloadbalancing elasticmapreduce elastictranscoder email.cognito-idp emr-containers emr-serverless
	entityresolution es events events.workmail export.rds
	finspace firehose fis fms forecast frauddetector fsx
	gamelift geo globalaccelerator glue grafana greengrass groundstation guardduty
	health healthlake
	iam identitystore imagebuilder importexport inspector inspector2 internetmonitor iot iotanalytics iotevents
	iotfleetwise iotmanagedintegrations iotroborunner iotsitewise iotthingsgraph iottwinmaker ivs
	job.sagemaker justintimeaccess.ssm
	kafka kafkaconnect kendra kinesis kinesisanalytics kinesisreplication.dynamodb kinesisvideo kms
	lakeformation lambda launchwizard lex lexv2 license-management.marketplace license-manager
	license-manager.member-account lightsail location logger.cloudfront logs lookoutequipment lookoutmetrics
	lookoutvision
	m2 macie macie2 maintenance.elasticbeanstalk malware-protection malware-protection-plan.guardduty
	malware-protection.guardduty managedblockchain managedupdates.elasticbeanstalk mediaconnect mediaconvert medialive
	mediapackage mediastore mediatailor medical-imaging memorydb metering-marketplace metrics.wellarchitected mgh mgn
	migrationhub migrationhub-orchestrator migrationhub-strategy monitoring monitoring.thinclient monitron mpa mq
	neptune-graph network-firewall network.bedrock-agentcore networkmanager nimble notifications.ssm
	oam observability.aoss observabilityadmin odb omics opensearchservice ops.athena ops.emr-serverless opsworks
	organizations orgsdatasync.servicecatalog osis outposts
	panorama partnercentral-account-management payment-cryptography pcs permission.iq personalize pinpoint pipes
	pods.eks polly pricing private-marketplace.marketplace profile proton
	q qapps qbusiness qldb quicksight
	ram rbin rds rds.application-autoscaling redshift redshift-data redshift-serverless refactor-spaces rekognition
	remediation.config replication.cassandra replication.dynamodb replication.ecr replication.lexv2 replication.s3tables
	replicator.lambda reporting.trustedadvisor resale-authorization.marketplace researchstudio resiliencehub
	resource-explorer-2 resource-groups resource-snapshot-job.partnercentral-selling restore-testing.backup robomaker
	rolesanywhere route53 route53domains route53resolver rum runtime-identity.bedrock-agentcore
	runtime-instances.bedrock-agentcore
	s3 s3-outposts s3.data-source.lustre.fsx s3tables s3vectors sagemaker sagemaker-geospatial
	sagemaker.application-autoscaling scheduler schema-conversion.dms schemas scn scraper.aps sdmp secretsmanager
	security-ir securityagent securityhub securityhubv2 securitylake serverlessrepo servicecatalog
	servicecatalog-appregistry servicediscovery servicequotas ses shield signer simspaceweaver sms sms-voice
	smsintegration.migrationhub snowball sns spot spotfleet sqlworkbench sqs ssm ssm-contacts ssm-guiconnect
	ssm-incidents ssm-quicksetup ssm-sap ssm.integrations ssmmessages sso states storagegateway
	streams.metrics.cloudwatch sts support swf sync.proton synthetics
	tagging telemetry-pipelines.observabilityadmin textract thirdparty.config thirdparty.inspector2 timestream
	timestream-influxdb tnb transcribe transfer transform-custom transitgateway translate triage.security-ir
	trustedadvisor
	user-attribute-cost-allocation-data
	verified-access vmie voiceid vpc-flow-logs vpc-lattice vpcpeering vpn
	waf waf-regional wafv2 wam wellarchitected wisdom workdocs worklink workmail workspaces workspaces-web
	xray`)
