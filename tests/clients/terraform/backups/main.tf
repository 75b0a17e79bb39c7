# A database with a snapshot, a copy of it, and two databases made of its backups.

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0"
    }
  }
}

provider "aws" {}

provider "aws" {
  alias  = "abroad"
  region = "eu-west-1"
}

variable "engine_version" { type = string }
variable "parameter_group_family" { type = string }
variable "master_password" {
  type      = string
  sensitive = true
}

resource "aws_db_instance" "main" {
  identifier               = "backed-up"
  engine                   = "postgres"
  engine_version           = var.engine_version
  instance_class           = "db.t3.micro"
  allocated_storage        = 20
  db_name                  = "shop"
  username                 = "app"
  password                 = var.master_password
  backup_retention_period  = 7
  backup_window            = "03:00-03:30"
  maintenance_window       = "sun:05:00-sun:05:30"
  copy_tags_to_snapshot    = true
  delete_automated_backups = true
  apply_immediately        = true
  skip_final_snapshot      = true
  tags                     = { purpose = "orders" }
}

resource "aws_db_snapshot" "main" {
  db_instance_identifier = aws_db_instance.main.identifier
  db_snapshot_identifier = "taken"
  shared_accounts        = ["111122223333"]
  tags                   = { by = "terraform", purpose = "orders" }
}

resource "aws_db_snapshot_copy" "main" {
  source_db_snapshot_identifier = aws_db_snapshot.main.db_snapshot_arn
  target_db_snapshot_identifier = "copied"
  tags                          = { by = "terraform" }
}

resource "aws_db_instance" "of_snapshot" {
  identifier          = "of-snapshot"
  snapshot_identifier = aws_db_snapshot.main.db_snapshot_identifier
  instance_class      = "db.t3.micro"
  apply_immediately   = true
  skip_final_snapshot = true
  tags                = { by = "terraform", purpose = "orders" }
}

resource "aws_db_instance" "of_moment" {
  identifier     = "of-moment"
  instance_class = "db.t3.micro"
  restore_to_point_in_time {
    source_db_instance_identifier = aws_db_instance.main.identifier
    use_latest_restorable_time    = true
  }
  backup_retention_period = 7
  apply_immediately       = true
  skip_final_snapshot     = true
  depends_on              = [aws_db_snapshot.main]
}

resource "aws_db_instance_automated_backups_replication" "main" {
  provider               = aws.abroad
  source_db_instance_arn = aws_db_instance.main.arn
  retention_period       = 3
  depends_on             = [aws_db_snapshot.main]
}

output "addresses" {
  value = [aws_db_instance.of_snapshot.address, aws_db_instance.of_moment.address]
}
