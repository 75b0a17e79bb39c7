# An encrypted instance under a key of the user's own, and the way from a plain instance to an encrypted one.

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

resource "aws_kms_key" "main" {
  deletion_window_in_days = 7
}

resource "aws_db_instance" "encrypted" {
  identifier              = "tf-encrypted"
  engine                  = "postgres"
  engine_version          = var.engine_version
  instance_class          = "db.t3.micro"
  storage_type            = "standard"
  allocated_storage       = 5
  username                = "app"
  password                = var.master_password
  storage_encrypted       = true
  kms_key_id              = aws_kms_key.main.arn
  backup_retention_period = 0
  skip_final_snapshot     = true
  apply_immediately       = true
}

resource "aws_db_instance" "plain" {
  identifier              = "tf-plain"
  engine                  = "postgres"
  engine_version          = var.engine_version
  instance_class          = "db.t3.micro"
  storage_type            = "standard"
  allocated_storage       = 5
  username                = "app"
  password                = var.master_password
  backup_retention_period = 0
  skip_final_snapshot     = true
  apply_immediately       = true
}

resource "aws_db_snapshot" "plain" {
  db_instance_identifier = aws_db_instance.plain.identifier
  db_snapshot_identifier = "tf-plain"
}

resource "aws_db_snapshot_copy" "encrypted" {
  source_db_snapshot_identifier = aws_db_snapshot.plain.db_snapshot_arn
  target_db_snapshot_identifier = "tf-encrypted-copy"
  kms_key_id                    = aws_kms_key.main.arn
}

resource "aws_db_instance" "restored" {
  identifier              = "tf-restored"
  instance_class          = "db.t3.micro"
  snapshot_identifier     = aws_db_snapshot_copy.encrypted.target_db_snapshot_identifier
  storage_encrypted       = true
  kms_key_id              = aws_kms_key.main.arn
  backup_retention_period = 0
  skip_final_snapshot     = true
  apply_immediately       = true
}

output "key_arn" {
  value = aws_kms_key.main.arn
}

output "copy_encrypted" {
  value = aws_db_snapshot_copy.encrypted.encrypted
}
