# A key with its policy, rotation, alias and grant, and a secret under it.

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

variable "stage" {
  type    = string
  default = "first"
}

variable "rotation_days" {
  type    = number
  default = 90
}

data "aws_caller_identity" "me" {}

resource "aws_iam_user" "reader" {
  name = "terraform-kms-reader"
}

resource "aws_kms_key" "plain" {}

resource "aws_kms_key" "main" {
  description             = "terraform ${var.stage}"
  deletion_window_in_days = 7
  enable_key_rotation     = true
  rotation_period_in_days = var.rotation_days
  tags                    = { stage = var.stage }
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "account"
        Effect    = "Allow"
        Principal = { AWS = "arn:aws:iam::${data.aws_caller_identity.me.account_id}:root" }
        Action    = "kms:*"
        Resource  = "*"
      },
      {
        Sid       = var.stage
        Effect    = "Allow"
        Principal = { AWS = aws_iam_user.reader.arn }
        Action    = ["kms:Decrypt", "kms:DescribeKey"]
        Resource  = "*"
      }
    ]
  })
}

resource "aws_kms_alias" "main" {
  name          = "alias/terraform/main"
  target_key_id = var.stage == "first" ? aws_kms_key.main.key_id : aws_kms_key.plain.key_id
}

resource "aws_kms_grant" "reader" {
  name              = "reader"
  key_id            = aws_kms_key.main.key_id
  grantee_principal = aws_iam_user.reader.arn
  operations        = ["Encrypt", "GenerateDataKey"]
  constraints {
    encryption_context_equals = { app = "shop" }
  }
}

data "aws_kms_key" "by_alias" {
  key_id     = aws_kms_alias.main.name
  depends_on = [aws_kms_alias.main]
}

data "aws_kms_key" "of_rds" {
  key_id = "alias/aws/rds"
}

output "key_id" {
  value = aws_kms_key.main.key_id
}

output "manager" {
  value = data.aws_kms_key.of_rds.key_manager
}
