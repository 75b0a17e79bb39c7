"""Answers byte for byte, in every protocol."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from mainstay.host.aws_models import read_model
from mainstay.model.errors import ApiError
from mainstay.protocol.aws.models import SERVICES, ServedService, ServiceModels
from mainstay.protocol.aws.serialize import serialize_error, serialize_result
from mainstay.protocol.aws.vocabulary import Protocol

KMS = ServedService(
    name="kms", signing_name="kms", api_version="2014-11-01", protocols=("json",), target_prefix="TrentService"
)
CLOUDWATCH = ServedService(
    name="cloudwatch", signing_name="monitoring", api_version="2010-08-01", protocols=("json", "query")
)
SNS = ServedService(name="sns", signing_name="sns", api_version="2010-03-31", protocols=("query",))
MODELS = ServiceModels((*SERVICES, KMS, CLOUDWATCH, SNS), read_model)


def body(service: str, operation: str, result: dict[str, Any] | None) -> str:
    protocol = MODELS.rows[service].protocols[0]
    answer = serialize_result(MODELS.operation(service, operation), protocol, result, "id")
    assert answer.status == 200
    assert ("x-amzn-RequestId", "id") in answer.headers
    return answer.body.decode()


def instance(**members: Any) -> str:
    text = body("rds", "DescribeDBInstances", {"DBInstances": [members]})
    return text.partition("<DBInstance>")[2].partition("</DBInstance>")[0]


class TestQuery:
    def test_the_whole_answer(self) -> None:
        assert body("sts", "GetCallerIdentity", {"Account": "123456789012"}) == (
            '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
            "<Account>123456789012</Account></GetCallerIdentityResult><ResponseMetadata><RequestId>id</RequestId>"
            "</ResponseMetadata></GetCallerIdentityResponse>"
        )

    def test_operations_without_output_have_no_result_element(self) -> None:
        assert body("rds", "AddTagsToResource", None) == (
            '<AddTagsToResourceResponse xmlns="http://rds.amazonaws.com/doc/2014-10-31/"><ResponseMetadata>'
            "<RequestId>id</RequestId></ResponseMetadata></AddTagsToResourceResponse>"
        )
        with pytest.raises(ValueError, match="has no output"):
            body("rds", "AddTagsToResource", {"a": 1})

    def test_absent_empty_and_present_members(self) -> None:
        assert instance(Engine=None, TagList=[], PendingModifiedValues={}, DBName="") == (
            "<TagList></TagList><PendingModifiedValues></PendingModifiedValues><DBName></DBName>"
        )
        assert "<DescribeDBInstancesResult></DescribeDBInstancesResult>" in body("rds", "DescribeDBInstances", None)

    def test_list_items_are_named_by_the_model(self) -> None:
        assert "<TagList><Tag><Key>k</Key></Tag></TagList>" in instance(TagList=[{"Key": "k"}])
        assert "<EnabledCloudwatchLogsExports><member>error</member>" in instance(
            EnabledCloudwatchLogsExports=["error"]
        )

    def test_maps_have_entries(self) -> None:
        text = body("sns", "GetTopicAttributes", {"Attributes": {"a": "<"}})
        assert "<Attributes><entry><key>a</key><value>&lt;</value></entry></Attributes>" in text

    @pytest.mark.parametrize(
        ("moment", "text"),
        [
            (0, "1970-01-01T00:00:00Z"),
            (1767225600.5, "2026-01-01T00:00:00.500Z"),
            (1767225600.0004, "2026-01-01T00:00:00Z"),
            (datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "2026-01-01T00:00:00Z"),
        ],
    )
    def test_timestamps_are_utc_with_z(self, moment: datetime | float, text: str) -> None:
        assert instance(InstanceCreateTime=moment) == f"<InstanceCreateTime>{text}</InstanceCreateTime>"

    def test_a_timestamp_without_zone_is_our_bug(self) -> None:
        with pytest.raises(ValueError, match="ambiguous"):
            instance(InstanceCreateTime=datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None))

    def test_booleans_and_numbers(self) -> None:
        assert instance(MultiAZ=True, Iops=3000) == "<MultiAZ>true</MultiAZ><Iops>3000</Iops>"
        assert instance(MultiAZ=False) == "<MultiAZ>false</MultiAZ>"

    def test_text_is_escaped_and_illegal_characters_are_replaced(self) -> None:
        text = instance(DBName='<a&"b">\r\n\t\x00\x0b\ud800\uffff漢')
        assert text == "<DBName>&lt;a&amp;&quot;b&quot;&gt;&#xD;\n\t\ufffd\ufffd\ufffd\ufffd漢</DBName>"

    def test_a_member_unknown_to_the_model_is_our_bug(self) -> None:
        with pytest.raises(KeyError):
            instance(Nothing=1)


class TestEc2:
    def test_the_whole_answer(self) -> None:
        assert body("ec2", "DescribeVpcs", {"Vpcs": [{"VpcId": "vpc-1", "IsDefault": True, "Tags": []}]}) == (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<DescribeVpcsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>id</requestId>'
            "<vpcSet><item><vpcId>vpc-1</vpcId><isDefault>true</isDefault><tagSet></tagSet></item></vpcSet>"
            "</DescribeVpcsResponse>"
        )

    def test_operations_without_output_return_true(self) -> None:
        assert "<requestId>id</requestId><return>true</return>" in body("ec2", "DeleteTags", None)

    def test_timestamps_always_have_milliseconds(self) -> None:
        text = body("ec2", "CreateVolume", {"CreateTime": 1767225600})
        assert "<createTime>2026-01-01T00:00:00.000Z</createTime>" in text


class TestJson:
    def test_the_whole_answer(self) -> None:
        operation = MODELS.operation("kms", "GetParametersForImport")
        result = {"KeyId": "k\ud800", "ImportToken": b"abc", "ParametersValidTo": 1767225600.5, "PublicKey": None}
        answer = serialize_result(operation, "json", result, "id")
        assert json.loads(answer.body) == {
            "KeyId": "k\ufffd",
            "ImportToken": "YWJj",
            "ParametersValidTo": 1767225600.5,
        }
        assert answer.headers == (("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-RequestId", "id"))

    def test_operations_without_output_have_no_body(self) -> None:
        assert body("kms", "DisableKey", None) == ""

    def test_whole_seconds_are_integers(self) -> None:
        assert body("kms", "GetParametersForImport", {"ParametersValidTo": 5.0}) == '{"ParametersValidTo":5}'


class TestErrors:
    def answer(self, service: str, protocol: Protocol, error: ApiError) -> tuple[int, str]:
        answer = serialize_error(MODELS.service(service), protocol, error, "id")
        assert ("x-amzn-RequestId", "id") in answer.headers
        return answer.status, answer.body.decode()

    def test_query_body(self) -> None:
        assert self.answer("rds", "query", ApiError("DBInstanceNotFoundFault", "DBInstance <x> not found.")) == (
            404,
            '<ErrorResponse xmlns="http://rds.amazonaws.com/doc/2014-10-31/"><Error><Type>Sender</Type>'
            "<Code>DBInstanceNotFound</Code><Message>DBInstance &lt;x&gt; not found.</Message></Error>"
            "<RequestId>id</RequestId></ErrorResponse>",
        )

    @pytest.mark.parametrize(
        ("shape", "code", "status"),
        [
            ("DBInstanceNotFound", "DBInstanceNotFound", 404),
            ("DBInstanceAlreadyExistsFault", "DBInstanceAlreadyExists", 400),
            ("DBSubnetGroupNotFoundFault", "DBSubnetGroupNotFoundFault", 404),
            ("InvalidParameterValue", "InvalidParameterValue", 400),
            ("SignatureDoesNotMatch", "SignatureDoesNotMatch", 403),
            ("InvalidClientTokenId", "InvalidClientTokenId", 403),
            ("ExpiredToken", "ExpiredToken", 403),
            ("AccessDenied", "AccessDenied", 403),
            ("MissingAuthenticationToken", "MissingAuthenticationToken", 403),
            ("IncompleteSignature", "IncompleteSignature", 400),
        ],
    )
    def test_codes_and_statuses_of_rds(self, shape: str, code: str, status: int) -> None:
        found, text = self.answer("rds", "query", ApiError(shape, ""))
        assert (found, f"<Code>{code}</Code>" in text) == (status, True)

    def test_a_chosen_status_is_kept_for_unlisted_codes(self) -> None:
        status, text = self.answer("rds", "query", ApiError("InternalFailure", "", status=503))
        assert (status, "<Type>Receiver</Type>" in text) == (503, True)

    def test_iam_statuses(self) -> None:
        assert self.answer("iam", "query", ApiError("NoSuchEntityException", ""))[0] == 404
        assert self.answer("iam", "query", ApiError("EntityAlreadyExists", ""))[0] == 409

    def test_ec2_body(self) -> None:
        assert self.answer("ec2", "ec2", ApiError("InvalidVpcID.NotFound", "no & no")) == (
            400,
            '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error><Code>InvalidVpcID.NotFound</Code>'
            "<Message>no &amp; no</Message></Error></Errors><RequestID>id</RequestID></Response>",
        )

    @pytest.mark.parametrize(
        ("code", "spelled", "status"),
        [("AccessDenied", "UnauthorizedOperation", 403), ("InvalidClientTokenId", "AuthFailure", 401)],
    )
    def test_ec2_spells_common_codes_its_own_way(self, code: str, spelled: str, status: int) -> None:
        found, text = self.answer("ec2", "ec2", ApiError(code, ""))
        assert (found, f"<Code>{spelled}</Code>" in text) == (status, True)

    def test_json_body(self) -> None:
        answer = serialize_error(MODELS.service("kms"), "json", ApiError("NotFoundException", "no key"), "id")
        assert json.loads(answer.body) == {"__type": "NotFoundException", "message": "no key"}
        assert dict(answer.headers) == {
            "Content-Type": "application/x-amz-json-1.1",
            "x-amzn-RequestId": "id",
            "x-amzn-ErrorType": "NotFoundException",
        }
        assert json.loads(self.answer("kms", "json", ApiError("AccessDenied", ""))[1])["__type"] == (
            "AccessDeniedException"
        )

    def test_json_servers_faults_are_500(self) -> None:
        assert self.answer("kms", "json", ApiError("KMSInternalException", ""))[0] == 500

    def test_query_compatible_services_tell_the_query_code(self) -> None:
        answer = serialize_error(MODELS.service("cloudwatch"), "json", ApiError("ResourceNotFound", ""), "id")
        assert dict(answer.headers)["x-amzn-query-error"] == "ResourceNotFound;Sender"

    @pytest.mark.parametrize("protocol", ["query", "ec2", "json"])
    def test_a_request_for_no_service_is_answered_too(self, protocol: Protocol) -> None:
        answer = serialize_error(None, protocol, ApiError("InvalidAction", "x"), "id")
        assert answer.status == 400
        assert b"UnknownOperationException" in answer.body or b"<Code>InvalidAction</Code>" in answer.body

    def test_a_made_up_client_text_cannot_break_the_xml(self) -> None:
        assert "<Code>a&lt;b</Code>" in self.answer("rds", "query", ApiError("a<b", "\x00"))[1]
