# A secret with its versions and policy, and a database whose master password RDS keeps in a secret.

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
variable "master_password" { type = string }

variable "value" {
  type    = string
  default = "first"
}

variable "days" {
  type    = number
  default = 7
}

data "aws_caller_identity" "me" {}

data "aws_secretsmanager_random_password" "made" {
  password_length     = 24
  exclude_punctuation = true
}

resource "aws_secretsmanager_secret" "app" {
  name                    = "terraform/app"
  description             = "What the application needs"
  recovery_window_in_days = 0
  tags                    = { team = "blue" }
}

resource "aws_secretsmanager_secret_version" "app" {
  secret_id     = aws_secretsmanager_secret.app.id
  secret_string = jsonencode({ key = var.value })
}

resource "aws_secretsmanager_secret_policy" "app" {
  secret_arn          = aws_secretsmanager_secret.app.arn
  block_public_policy = true
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { AWS = "arn:aws:iam::${data.aws_caller_identity.me.account_id}:root" }
      Action    = "secretsmanager:GetSecretValue"
      Resource  = "*"
    }]
  })
}

resource "aws_db_instance" "managed" {
  identifier                  = "terraform-managed"
  engine                      = "postgres"
  engine_version              = var.engine_version
  instance_class              = "db.t3.micro"
  allocated_storage           = 20
  username                    = "app"
  manage_master_user_password = true
  skip_final_snapshot         = true
  apply_immediately           = true
}

resource "aws_secretsmanager_secret_rotation" "managed" {
  secret_id          = aws_db_instance.managed.master_user_secret[0].secret_arn
  rotate_immediately = false
  rotation_rules {
    automatically_after_days = var.days
  }
}

data "aws_secretsmanager_secret_version" "app" {
  secret_id  = aws_secretsmanager_secret.app.id
  depends_on = [aws_secretsmanager_secret_version.app]
}

output "read_back" {
  value     = data.aws_secretsmanager_secret_version.app.secret_string
  sensitive = true
}

output "master_secret" {
  value = aws_db_instance.managed.master_user_secret[0].secret_arn
}
