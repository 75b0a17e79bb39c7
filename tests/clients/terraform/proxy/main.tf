# A database that only its proxy may reach, and the proxy with its secret, role and endpoints, as teams write it.

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0"
    }
  }
}

provider "aws" {}

variable "engine_version" { type = string }
variable "parameter_group_family" { type = string }
variable "master_password" {
  type      = string
  sensitive = true
}
variable "stage" {
  type    = string
  default = "first"
}
variable "idle_client_timeout" {
  type    = number
  default = 1800
}
variable "max_connections_percent" {
  type    = number
  default = 90
}

data "aws_availability_zones" "all" {
  state = "available"
}

resource "aws_vpc" "main" {
  cidr_block = "10.30.0.0/16"
  tags       = { Name = "proxied" }
}

resource "aws_subnet" "main" {
  count             = 2
  vpc_id            = aws_vpc.main.id
  cidr_block        = cidrsubnet(aws_vpc.main.cidr_block, 8, count.index)
  availability_zone = data.aws_availability_zones.all.names[count.index]
}

resource "aws_security_group" "proxy" {
  name   = "proxied-proxy"
  vpc_id = aws_vpc.main.id
  ingress {
    from_port   = 5432
    to_port     = 5432
    protocol    = "tcp"
    cidr_blocks = ["127.0.0.0/8"]
  }
  egress {
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_security_group" "db" {
  name   = "proxied-db"
  vpc_id = aws_vpc.main.id
  ingress {
    from_port       = 5432
    to_port         = 5432
    protocol        = "tcp"
    security_groups = [aws_security_group.proxy.id]
  }
}

resource "aws_db_subnet_group" "main" {
  name       = "proxied"
  subnet_ids = aws_subnet.main[*].id
}

resource "aws_db_instance" "main" {
  identifier              = "proxied"
  engine                  = "postgres"
  engine_version          = var.engine_version
  instance_class          = "db.t3.micro"
  allocated_storage       = 20
  db_name                 = "shop"
  username                = "app"
  password                = var.master_password
  db_subnet_group_name    = aws_db_subnet_group.main.name
  vpc_security_group_ids  = [aws_security_group.db.id]
  backup_retention_period = 0
  apply_immediately       = true
  skip_final_snapshot     = true
}

resource "aws_secretsmanager_secret" "app" {
  name                    = "proxied/app"
  recovery_window_in_days = 0
}

resource "aws_secretsmanager_secret_version" "app" {
  secret_id     = aws_secretsmanager_secret.app.id
  secret_string = jsonencode({ username = "app", password = var.master_password })
}

resource "aws_iam_role" "proxy" {
  name = "proxied-proxy"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "rds.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy" "proxy" {
  name = "read-secrets"
  role = aws_iam_role.proxy.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"]
      Resource = aws_secretsmanager_secret.app.arn
    }]
  })
}

resource "aws_db_proxy" "main" {
  name                   = "proxied"
  engine_family          = "POSTGRESQL"
  role_arn               = aws_iam_role.proxy.arn
  vpc_subnet_ids         = aws_subnet.main[*].id
  vpc_security_group_ids = [aws_security_group.proxy.id]
  require_tls            = true
  idle_client_timeout    = var.idle_client_timeout
  debug_logging          = false
  tags                   = { stage = var.stage }

  auth {
    auth_scheme               = "SECRETS"
    description               = "the application"
    iam_auth                  = "DISABLED"
    client_password_auth_type = "POSTGRES_SCRAM_SHA_256"
    secret_arn                = aws_secretsmanager_secret.app.arn
  }
}

resource "aws_db_proxy_default_target_group" "main" {
  db_proxy_name = aws_db_proxy.main.name

  connection_pool_config {
    connection_borrow_timeout    = 30
    max_connections_percent      = var.max_connections_percent
    max_idle_connections_percent = 20
  }
}

resource "aws_db_proxy_target" "main" {
  db_proxy_name          = aws_db_proxy.main.name
  target_group_name      = aws_db_proxy_default_target_group.main.name
  db_instance_identifier = aws_db_instance.main.identifier
}

resource "aws_db_proxy_endpoint" "more" {
  count                  = 2
  db_proxy_name          = aws_db_proxy.main.name
  db_proxy_endpoint_name = "proxied-${count.index}"
  vpc_subnet_ids         = aws_subnet.main[*].id
  vpc_security_group_ids = [aws_security_group.proxy.id]
  target_role            = "READ_WRITE"
  tags                   = { stage = var.stage }
}

data "aws_db_proxy" "main" {
  name = aws_db_proxy.main.name
}

output "endpoints" {
  value = concat([data.aws_db_proxy.main.endpoint], aws_db_proxy_endpoint.more[*].endpoint)
}

output "target" {
  value = aws_db_proxy_target.main.rds_resource_id
}
