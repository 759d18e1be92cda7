"""The control plane's answers: models and inference profiles as botocore's shapes have them."""

from __future__ import annotations

import re
from datetime import datetime

import pytest
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from bx import foundation
from bx.server import control

SERVICE = ServiceModel(Loader().load_service_model("bedrock", "service-2"), "bedrock")
REGIONS = ["", "us-east-1", "eu-west-1", "ap-northeast-1", "us-gov-west-1", "moon-1"]
SONNET = "anthropic.claude-sonnet-4-6"


def performed(operation, region="us-east-1", **request):
    answer = control.OPERATIONS[operation](request, region)
    report = ParamValidator().validate(answer, SERVICE.operation_model(operation).output_shape)
    assert not report.has_errors(), report.generate_report()
    return answer


def models(region="us-east-1", **filters):
    return {each["modelId"]: each for each in performed("ListFoundationModels", region, **filters)["modelSummaries"]}


def profiles(region="us-east-1", **request):
    return performed("ListInferenceProfiles", region, **request)["inferenceProfileSummaries"]


def pattern(shape):
    return SERVICE.shape_for(shape).metadata["pattern"]


# ---- models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("region", REGIONS)
def test_answers_have_the_shapes_of_the_service(region):
    for model_id, model in models(region).items():
        assert re.fullmatch(pattern("FoundationModelArn"), model["modelArn"])
        assert re.fullmatch(pattern("GetFoundationModelIdentifier"), model_id)
        got = performed("GetFoundationModel", region, modelIdentifier=model["modelArn"])
        assert got["modelDetails"] == model
    for profile in profiles(region):
        assert re.fullmatch(pattern("InferenceProfileArn"), profile["inferenceProfileArn"])
        assert re.fullmatch(pattern("InferenceProfileId"), profile["inferenceProfileId"])
        assert 1 <= len(profile["models"]) <= 5
        assert len(profile["inferenceProfileName"]) <= 64
        for identifier in (profile["inferenceProfileId"], profile["inferenceProfileArn"]):
            assert performed("GetInferenceProfile", region, inferenceProfileIdentifier=identifier) == profile


def test_a_model_is_told_as_the_service_does():
    assert models()["amazon.nova-pro-v1:0"] == {
        "modelArn": "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-pro-v1:0",
        "modelId": "amazon.nova-pro-v1:0",
        "modelName": "Nova Pro",
        "providerName": "Amazon",
        "inputModalities": ["TEXT", "IMAGE", "VIDEO"],
        "outputModalities": ["TEXT"],
        "responseStreamingSupported": True,
        "customizationsSupported": [],
        "inferenceTypesSupported": ["ON_DEMAND", "INFERENCE_PROFILE"],
        "modelLifecycle": {"status": "ACTIVE"},
    }


def test_models_that_answer_through_profiles_only_say_so():
    found = models()
    assert found[SONNET]["inferenceTypesSupported"] == ["INFERENCE_PROFILE"]
    assert found["deepseek.v3.2"]["inferenceTypesSupported"] == ["ON_DEMAND"]
    assert models("eu-west-1")["amazon.nova-pro-v1:0"]["inferenceTypesSupported"] == ["INFERENCE_PROFILE"]


def test_models_are_those_that_the_region_can_call():
    assert "meta.llama4-scout-17b-instruct-v1:0" in models("us-west-2")
    assert "meta.llama4-scout-17b-instruct-v1:0" not in models("eu-west-1")
    assert "amazon.nova-premier-v1:0" not in models("us-east-1"), "its life has ended"


def test_the_arn_of_a_model_carries_the_regions_partition():
    arn = models("us-gov-west-1")["amazon.nova-pro-v1:0"]["modelArn"]
    assert arn == "arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/amazon.nova-pro-v1:0"


@pytest.mark.parametrize(
    ("filters", "is_wanted"),
    [
        ({"byProvider": "Anthropic"}, lambda model: model["providerName"] == "Anthropic"),
        ({"byProvider": "mistral ai"}, lambda model: model["providerName"] == "Mistral AI"),
        ({"byOutputModality": "EMBEDDING"}, lambda model: "EMBEDDING" in model["outputModalities"]),
        ({"byInferenceType": "ON_DEMAND"}, lambda model: "ON_DEMAND" in model["inferenceTypesSupported"]),
        ({"byOutputModality": "TEXT", "byProvider": "Meta"}, lambda model: model["providerName"] == "Meta"),
    ],
)
def test_filters_keep_what_fits_all_of_them(filters, is_wanted):
    everything = models()
    assert models(**filters) == {model_id: model for model_id, model in everything.items() if is_wanted(model)}
    assert models(**filters)


@pytest.mark.parametrize(
    "filters", [{"byProvider": "Nobody"}, {"byInferenceType": "PROVISIONED"}, {"byCustomizationType": "FINE_TUNING"}]
)
def test_a_filter_that_nothing_fits_gives_an_empty_list(filters):
    assert models(**filters) == {}


@pytest.mark.parametrize("identifier", ["acme.model", "nonsense", "amazon.nova-premier-v1:0", f"us.{SONNET}"])
def test_a_model_that_there_is_not_is_not_found(identifier):
    with pytest.raises(ClientError) as caught:
        performed("GetFoundationModel", modelIdentifier=identifier)
    assert caught.value.response["Error"] == {
        "Code": "ResourceNotFoundException",
        "Message": "Could not resolve the foundation model from the provided model identifier.",
    }
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


# ---- profiles -------------------------------------------------------------------------------------------------


def test_a_profile_is_told_as_the_service_does():
    got = performed("GetInferenceProfile", inferenceProfileIdentifier=f"us.{SONNET}")
    assert isinstance(got.pop("createdAt"), datetime)
    assert isinstance(got.pop("updatedAt"), datetime)
    assert got == {
        "inferenceProfileName": "US Anthropic Claude Sonnet 4.6",
        "description": "Routes requests to Anthropic Claude Sonnet 4.6 in us-east-1, us-east-2 and us-west-2.",
        "inferenceProfileArn": f"arn:aws:bedrock:us-east-1:000000000000:inference-profile/us.{SONNET}",
        "models": [
            {"modelArn": f"arn:aws:bedrock:{region}::foundation-model/{SONNET}"}
            for region in ("us-east-1", "us-east-2", "us-west-2")
        ],
        "inferenceProfileId": f"us.{SONNET}",
        "status": "ACTIVE",
        "type": "SYSTEM_DEFINED",
    }


def test_a_worldwide_profile_lists_the_callers_region_and_the_world():
    got = performed("GetInferenceProfile", "eu-west-3", inferenceProfileIdentifier=f"global.{SONNET}")
    assert [each["modelArn"] for each in got["models"]] == [
        f"arn:aws:bedrock:eu-west-3::foundation-model/{SONNET}",
        f"arn:aws:bedrock:::foundation-model/{SONNET}",
    ]


def test_profiles_are_those_that_the_region_can_call():
    assert {each["inferenceProfileId"].partition(".")[0] for each in profiles("eu-west-1")} == {"global", "eu"}
    with pytest.raises(ClientError) as caught:
        performed("GetInferenceProfile", "eu-west-1", inferenceProfileIdentifier=f"us.{SONNET}")
    assert caught.value.response["Error"]["Code"] == "ResourceNotFoundException"


def test_every_profile_leads_to_a_model_that_is_listed():
    assert {foundation.find(each["inferenceProfileId"]).id for each in profiles()} <= {*models()}


def test_pages_put_together_are_the_whole_list():
    found, request = [], {"maxResults": 7}
    while True:
        page = performed("ListInferenceProfiles", **request)
        assert 0 < len(page["inferenceProfileSummaries"]) <= 7
        found += page["inferenceProfileSummaries"]
        if "nextToken" not in page:
            break
        request["nextToken"] = page["nextToken"]
    assert found == profiles()


def test_there_are_no_profiles_of_the_users_own():
    assert profiles(typeEquals="APPLICATION") == []
    assert profiles(typeEquals="SYSTEM_DEFINED") == profiles()


@pytest.mark.parametrize("token", ["nonsense", "LTE=", "é", "MS41"])
def test_a_token_that_was_not_given_out_is_refused(token):
    with pytest.raises(ClientError, match="nextToken"):
        performed("ListInferenceProfiles", nextToken=token)
