# A database in a network of its own, as teams write it. Endpoint, region and credentials come from the environment.

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
variable "instance_class" {
  type    = string
  default = "db.t3.micro"
}
variable "stage" {
  type    = string
  default = "first"
}
variable "work_mem" {
  type    = string
  default = "8192"
}
variable "client_network" {
  type    = string
  default = "127.0.0.0/8"
}

# MariaDB and MySQL, where they are installed: engine to version, and engine to parameter group family.
variable "others" {
  type    = map(string)
  default = {}
}
variable "other_families" {
  type    = map(string)
  default = {}
}
variable "packet" {
  type    = string
  default = "33554432"
}

data "aws_caller_identity" "me" {}

data "aws_availability_zones" "all" {
  state = "available"
}

data "aws_rds_engine_version" "postgres" {
  engine  = "postgres"
  version = var.engine_version
}

data "aws_rds_orderable_db_instance" "micro" {
  engine         = data.aws_rds_engine_version.postgres.engine
  engine_version = data.aws_rds_engine_version.postgres.version
  instance_class = "db.t3.micro"
  storage_type   = "gp3"
}

resource "aws_vpc" "main" {
  cidr_block           = "10.20.0.0/16"
  enable_dns_hostnames = true
  tags                 = { Name = "clients" }
}

resource "aws_subnet" "db" {
  count             = 2
  vpc_id            = aws_vpc.main.id
  cidr_block        = cidrsubnet(aws_vpc.main.cidr_block, 8, count.index)
  availability_zone = data.aws_availability_zones.all.names[count.index]
  tags              = { Name = "clients-${count.index}" }
}

resource "aws_internet_gateway" "main" {
  vpc_id = aws_vpc.main.id
}

resource "aws_route_table" "main" {
  vpc_id = aws_vpc.main.id
  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.main.id
  }
}

resource "aws_route_table_association" "db" {
  count          = 2
  subnet_id      = aws_subnet.db[count.index].id
  route_table_id = aws_route_table.main.id
}

resource "aws_security_group" "db" {
  name        = "clients-db"
  description = "rules as resources of their own"
  vpc_id      = aws_vpc.main.id
}

resource "aws_vpc_security_group_ingress_rule" "db" {
  security_group_id = aws_security_group.db.id
  cidr_ipv4         = var.client_network
  from_port         = 5432
  to_port           = 5432
  ip_protocol       = "tcp"
  tags              = { Name = "clients" }
}

resource "aws_security_group" "inline" {
  name        = "clients-inline"
  description = "rules inside"
  vpc_id      = aws_vpc.main.id
  ingress {
    description = "from the application"
    from_port   = 5432
    to_port     = 5432
    protocol    = "tcp"
    cidr_blocks = [var.client_network]
  }
  egress {
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_security_group" "ruled" {
  name   = "clients-ruled"
  vpc_id = aws_vpc.main.id
}

resource "aws_security_group_rule" "ruled" {
  type                     = "ingress"
  security_group_id        = aws_security_group.ruled.id
  source_security_group_id = aws_security_group.db.id
  from_port                = 5432
  to_port                  = 5432
  protocol                 = "tcp"
}

resource "aws_db_subnet_group" "main" {
  name       = "clients"
  subnet_ids = aws_subnet.db[*].id
  tags       = { stage = var.stage }
}

resource "aws_db_parameter_group" "main" {
  name   = "clients"
  family = var.parameter_group_family
  parameter {
    name  = "work_mem"
    value = var.work_mem
  }
  parameter {
    name         = "max_connections"
    value        = "120"
    apply_method = "pending-reboot"
  }
}

resource "aws_db_option_group" "main" {
  name                     = "clients"
  engine_name              = "postgres"
  major_engine_version     = split(".", var.engine_version)[0]
  option_group_description = "no options"
}

resource "aws_db_instance" "main" {
  identifier              = "clients"
  engine                  = "postgres"
  engine_version          = data.aws_rds_orderable_db_instance.micro.engine_version
  instance_class          = var.instance_class
  allocated_storage       = 20
  db_name                 = "shop"
  username                = "app"
  password                = var.master_password
  db_subnet_group_name    = aws_db_subnet_group.main.name
  vpc_security_group_ids  = [aws_security_group.db.id]
  parameter_group_name    = aws_db_parameter_group.main.name
  option_group_name       = aws_db_option_group.main.name
  backup_retention_period = 0
  apply_immediately       = true
  skip_final_snapshot     = true
  tags                    = { stage = var.stage }
}

resource "aws_db_parameter_group" "other" {
  for_each = var.other_families
  name     = "clients-${each.key}"
  family   = each.value
  parameter {
    name  = "max_allowed_packet"
    value = var.packet
  }
  parameter {
    name         = "ft_min_word_len"
    value        = "7"
    apply_method = "pending-reboot"
  }
}

resource "aws_db_instance" "other" {
  for_each                = var.others
  identifier              = "clients-${each.key}"
  engine                  = each.key
  engine_version          = each.value
  instance_class          = var.instance_class
  allocated_storage       = 20
  db_name                 = "shop"
  username                = "app"
  password                = var.master_password
  parameter_group_name    = aws_db_parameter_group.other[each.key].name
  backup_retention_period = 0
  apply_immediately       = true
  skip_final_snapshot     = true
  tags                    = { stage = var.stage }
}

data "aws_db_instance" "main" {
  db_instance_identifier = aws_db_instance.main.identifier
}

resource "aws_iam_role" "app" {
  name = "clients-app"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { AWS = "arn:aws:iam::${data.aws_caller_identity.me.account_id}:root" }
    }]
  })
}

resource "aws_iam_policy" "describe" {
  name = "clients-describe"
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "rds:DescribeDBInstances", Resource = aws_db_instance.main.arn }]
  })
}

resource "aws_iam_role_policy_attachment" "app" {
  role       = aws_iam_role.app.name
  policy_arn = aws_iam_policy.describe.arn
}

output "address" { value = data.aws_db_instance.main.address }
output "zones" { value = data.aws_availability_zones.all.names }
