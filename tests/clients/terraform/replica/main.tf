# A database, Multi-AZ or not, with a read replica that can be made a database of its own by leaving out one argument.

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
variable "independent" {
  type    = bool
  default = false
}
variable "multi_az" {
  type    = bool
  default = false
}

resource "aws_db_parameter_group" "main" {
  name   = "replicated"
  family = var.parameter_group_family
  parameter {
    name  = "work_mem"
    value = "8192"
  }
}

resource "aws_db_instance" "main" {
  identifier              = "replicated"
  engine                  = "postgres"
  engine_version          = var.engine_version
  instance_class          = "db.t3.micro"
  allocated_storage       = 20
  db_name                 = "shop"
  username                = "app"
  password                = var.master_password
  parameter_group_name    = aws_db_parameter_group.main.name
  backup_retention_period = 1
  multi_az                = var.multi_az
  apply_immediately       = true
  skip_final_snapshot     = true
}

resource "aws_db_instance" "replica" {
  identifier              = "replicated-reader"
  replicate_source_db     = var.independent ? null : aws_db_instance.main.identifier
  instance_class          = "db.t3.micro"
  parameter_group_name    = aws_db_parameter_group.main.name
  maintenance_window      = "sun:05:00-sun:05:30"
  backup_retention_period = 0
  deletion_protection     = false
  apply_immediately       = true
  skip_final_snapshot     = true
  tags                    = { purpose = "reports" }
}

output "address" { value = aws_db_instance.replica.address }
