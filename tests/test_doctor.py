"""The doctor finds what is wrong, says what to do, and shows no secret."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hashlib
import json
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bx
from bx import doctor, weights
from bx.doctor import Case, Examination, Subject
from bx.engines import surroundings
from bx.engines.surroundings import Surroundings
from bx.ledger.store import Store
from scripted import closed_port, full_listener, silent_listener

pytest.importorskip("uvicorn", reason="most of it talks to the server")

NOVA = Subject("nova", "global.amazon.nova-2-lite-v1:0", chosen=True)
CLAUDE = Subject("claude", "global.anthropic.claude-sonnet-4-6", chosen=True)
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.fixture
def examined():
    """Examine a case with what the SDK finds here: examined(url, models=[...]) -> the examination, finished."""
    places = []

    def run(url=None, *, region=None, profile=None, models=(NOVA,), network=True, **case):
        def place():
            made = Surroundings(region, profile, url, control_url=url, offline=not network)
            places.append(made)
            return made

        exam = Examination(Case(place, tuple(models), network=network, **case))
        given = list(doctor.examine(exam))
        assert given == exam.found
        return exam

    yield run
    for made in places:
        made.close()


@pytest.fixture
def bedrock():
    """Run a Bedrock with faults: bedrock("ThrottlingException") -> its address."""
    with contextlib.ExitStack() as running:
        yield lambda *faults, **options: running.enter_context(bx.serve(model="echo", faults=faults, **options)).url


class Plain(ThreadingHTTPServer):
    """A small server: any page at a chosen time, and the answer of STS."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Pages)
        self.ahead = 0.0
        self.identity = 200, "arn:aws:sts::123456789012:assumed-role/developer/ann"
        self.tunnels = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()

    def close(self):
        self.shutdown()
        self.server_close()


class _Pages(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def date_time_string(self, timestamp=None):
        return email.utils.formatdate(time.time() + self.server.ahead, usegmt=True)

    def do_GET(self):
        self._send(404, b"{}")

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        status, told = self.server.identity
        body = f"<GetCallerIdentityResult><Arn>{told}</Arn></GetCallerIdentityResult>"
        body = f"<GetCallerIdentityResponse>{body}</GetCallerIdentityResponse>"
        if status != 200:
            body = f"<ErrorResponse><Error><Code>{told}</Code><Message>{told}</Message></Error></ErrorResponse>"
        self._send(status, body.encode())

    def _send(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self):
        self.server.tunnels.append(self.path)
        host, _, port = self.path.partition(":")
        with socket.create_connection((host, int(port))) as there:
            self.send_response(200)
            self.end_headers()
            pumps = [
                threading.Thread(target=_pump, args=pair)
                for pair in ((self.connection, there), (there, self.connection))
            ]
            for pump in pumps:
                pump.start()
            for pump in pumps:
                pump.join()
        self.close_connection = True


def _pump(source, target):
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def plain():
    with contextlib.closing(Plain()) as server:
        yield server


def of(exam, check, model=""):
    """The one finding of a check."""
    (found,) = [each for each in exam.found if (each.check, each.model) == (check, model)]
    return found


def verdicts(exam):
    return {each.check: each.verdict for each in exam.found}


def ago(**time):
    return datetime.now(UTC) - timedelta(**time)


# ---- all is well ----------------------------------------------------------------------------------------------


def test_where_all_is_well_each_check_says_so(examined, bedrock):
    exam = examined(bedrock(), models=[NOVA, CLAUDE])
    assert doctor.worst(exam.found) == 0
    assert {each.verdict for each in exam.found} == {"ok", "note", "skipped"}
    assert of(exam, "python").evidence.startswith("Python 3.")
    assert "knows outputConfig and strict" in of(exam, "sdk").evidence
    assert of(exam, "credentials").evidence == "keys in the environment (AWS_ACCESS_KEY_ID)"
    assert "inference profiles" in of(exam, "control plane").evidence
    for model in ("nova", "claude"):
        assert of(exam, "answer", model).evidence.startswith("answers in ")
        assert of(exam, "stream", model).evidence.startswith("streams in ")
    assert of(exam, "json", "nova").evidence == "JSON by a forced tool, checked"
    assert of(exam, "json", "claude").evidence == "JSON by outputConfig, enforced"
    assert "5x" in of(exam, "quota", "claude").evidence


def test_the_checks_come_from_cause_to_consequence(examined, bedrock):
    order = [each.check for each in examined(bedrock()).found]
    wanted = ["python", "sdk", "credentials", "sso", "clock", "region", "endpoint", "dns", "tcp", "identity"]
    wanted += ["control plane", "answer", "stream", "json", "embedded", "ledger"]
    assert [check for check in order if check in wanted] == wanted


def test_offline_nothing_is_sent(examined):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        exam = examined(f"http://127.0.0.1:{listener.getsockname()[1]}", network=False)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    for check in ("clock", "connection", "identity", "control plane"):
        assert of(exam, check)[1:3] == ("skipped", "offline")
    assert of(exam, "answer", "nova").verdict == "skipped"
    assert of(exam, "region").verdict == "ok"
    assert exam.estimate is None


def test_without_calls_no_model_is_called(examined, endpoint):
    exam = examined(endpoint.url, calls=False)
    assert not [asked for asked in endpoint.requests if "converse" in asked.path]
    assert of(exam, "answer", "nova")[1:3] == ("skipped", "no calls are made")
    assert exam.estimate is None
    assert "cost" not in verdicts(exam)


def test_offline_not_even_a_role_of_the_machine_is_asked_for(examined, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        exam = examined(network=False)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert of(exam, "credentials").cause == "no-credentials"
    assert "no role was asked for" in of(exam, "credentials").evidence


# ---- costs ----------------------------------------------------------------------------------------------------


def test_what_it_costs_is_told_before_and_after(examined, bedrock):
    exam = examined(bedrock(), cost=lambda row: Decimal(row["output_tokens"]) / 1000)
    before, after = [each.evidence for each in exam.found if each.check == "cost"]
    assert before == "2 calls of one token: at most USD 0.002; --no-calls avoids them"
    assert after == "2 calls were answered: USD 0.002"
    order = [each.check for each in exam.found]
    assert order.index("cost") < order.index("answer")
    assert {row["operation"] for row in exam.spent} == {"Converse", "ConverseStream"}


def test_a_cost_that_is_tiny_is_not_nothing(examined, bedrock):
    exam = examined(bedrock(), cost=lambda _: Decimal("0.00000007"))
    before, after = [each.evidence for each in exam.found if each.check == "cost"]
    assert "at most USD 0.000001;" in before
    assert after == "2 calls were answered: less than USD 0.000001"


def test_an_unknown_price_is_not_nothing(examined, bedrock):
    url = bedrock()
    exam = examined(url)
    assert "their price is unknown" in of_cost(exam)[1]
    exam = examined(url, models=[NOVA, CLAUDE], cost=lambda row: Decimal(1) if "nova" in row["model_id"] else None)
    assert of_cost(exam)[1] == "4 calls were answered: at least USD 2, for the price of 2 is unknown"


def of_cost(exam):
    return [each.evidence for each in exam.found if each.check == "cost"]


# ---- credentials ----------------------------------------------------------------------------------------------


def test_no_credentials_are_a_problem_and_nothing_is_asked(examined, bedrock, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    exam = examined(bedrock())
    assert (of(exam, "credentials").verdict, of(exam, "credentials").exit_code) == ("problem", 3)
    assert of(exam, "tcp").verdict == "ok"
    assert of(exam, "identity")[1:3] == ("skipped", "not before this is set right: credentials")
    assert doctor.worst(exam.found) == 3


@pytest.mark.parametrize("where", ["environment", "file"])
def test_expired_credentials_are_told_with_their_hour(where, examined, private_home, monkeypatch):
    moment = ago(hours=2)
    if where == "environment":
        monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", moment.isoformat())
    else:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        _aws(
            private_home,
            credentials="[default]\naws_access_key_id = ASIAEXAMPLE\naws_secret_access_key = x\n"
            f"aws_session_token = y\nx_security_token_expires = {moment.isoformat()}\n",
        )
    found = of(examined(network=False), "credentials")
    assert (found.verdict, found.exit_code) == ("problem", 3)
    assert f"expired {moment.astimezone():%Y-%m-%d %H:%M}" in found.evidence
    assert found.fix.startswith("Sign in again")


def test_credentials_that_end_soon_are_a_note(examined, monkeypatch):
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", (datetime.now(UTC) + timedelta(minutes=5)).isoformat())
    assert of(examined(network=False), "credentials").verdict == "note"
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", (datetime.now(UTC) + timedelta(hours=5)).isoformat())
    assert of(examined(network=False), "credentials").verdict == "ok"


def test_half_a_pair_of_keys_is_a_problem(examined, monkeypatch):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    found = of(examined(network=False), "credentials")
    assert (found.exit_code, found.cause) == (3, "partial-credentials")


def test_a_profile_that_is_not_there_is_the_first_problem(examined):
    exam = examined(profile="nobody", network=False)
    assert of(exam, "configuration").cause == "profile-not-found"
    assert doctor.worst(exam.found) == 2
    assert of(exam, "aws").verdict == "skipped"


def test_a_credential_process_that_fails_is_told_with_its_reason(examined, private_home, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    _aws(private_home, config="[profile broken]\ncredential_process = sh -c 'echo no vault >&2; exit 1'\n")
    found = of(examined(closed_port(), profile="broken"), "credentials")
    assert (found.verdict, found.exit_code) == ("problem", 3)
    assert "no vault" in found.evidence


def test_an_api_key_that_wins_is_told_and_never_shown(examined, bedrock, monkeypatch):
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", f"ABSK{SECRET}")
    exam = examined(bedrock())
    assert of(exam, "credentials").verdict == "note"
    assert "wins over all other credentials" in of(exam, "credentials").evidence
    assert (of(exam, "endpoint").exit_code, of(exam, "endpoint").cause) == (2, "bearer-over-http")
    assert of(exam, "identity").verdict == "skipped"
    assert SECRET not in repr(exam.found)


def test_a_short_term_api_key_tells_its_end_and_its_region(examined, monkeypatch):
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", _short_term(ago(hours=1), "us-east-1"))
    assert of(examined(network=False), "credentials").verdict == "note"
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", _short_term(ago(hours=13), "us-east-1"))
    found = of(examined(network=False), "credentials")
    assert (found.verdict, found.exit_code) == ("problem", 3)
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", _short_term(ago(hours=1), "eu-west-1"))
    found = of(examined(network=False), "region")
    assert (found.verdict, found.exit_code) == ("problem", 3)
    assert "eu-west-1" in found.fix


def _short_term(made, region):
    url = (
        "bedrock.amazonaws.com/?Action=CallWithBearerToken&X-Amz-Algorithm=AWS4-HMAC-SHA256"
        f"&X-Amz-Credential=ASIAEXAMPLE%2F{made:%Y%m%d}%2F{region}%2Fbedrock%2Faws4_request"
        f"&X-Amz-Date={made:%Y%m%dT%H%M%SZ}&X-Amz-Expires=43200&X-Amz-Signature=0123&Version=1"
    )
    return "bedrock-api-key-" + base64.b64encode(url.encode()).decode()


# ---- the sign-in ----------------------------------------------------------------------------------------------


@pytest.fixture
def sso(private_home, monkeypatch):
    """A profile with a sign-in: sso(expiresAt=..., ...) puts down its token."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    profile = "[profile work]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = dev\n"
    session = "[sso-session corp]\nsso_start_url = https://corp.awsapps.com/start\nsso_region = us-east-1\n"
    _aws(private_home, config=profile + session)

    def sign_in(**token):
        folder = private_home / ".aws" / "sso" / "cache"
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha1(b"corp").hexdigest()
        (folder / f"{name}.json").write_text(json.dumps({"accessToken": SECRET, **token}))

    return sign_in


def _aws(home, **files):
    (home / ".aws").mkdir(exist_ok=True)
    for name, text in files.items():
        (home / ".aws" / name).write_text(text)


def _iso(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_who_never_signed_in_is_told_to(examined, sso):
    found = of(examined(profile="work", network=False), "sso")
    assert (found.verdict, found.exit_code) == ("problem", 3)
    assert found.fix == "Sign in with: aws sso login --profile work"


def test_a_sign_in_that_is_over_is_a_problem_unless_it_renews_itself(examined, sso):
    sso(expiresAt=_iso(ago(hours=1)))
    exam = examined(profile="work", network=False)
    assert (of(exam, "sso").verdict, of(exam, "sso").exit_code) == ("problem", 3)
    sso(expiresAt=_iso(ago(hours=1)), refreshToken=SECRET, registrationExpiresAt=_iso(ago(hours=-9)))
    exam = examined(profile="work", network=False)
    assert of(exam, "sso").verdict == "ok"
    assert SECRET not in repr(exam.found)


def test_a_sign_in_that_holds_is_told_with_its_end(examined, sso):
    sso(expiresAt=_iso(ago(hours=-1)))
    exam = examined(profile="work", network=False)
    assert of(exam, "sso").verdict == "ok"
    assert of(exam, "credentials").evidence == "the sign-in of the profile (SSO), profile work"


# ---- the clock ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead", "verdict", "code"), [(0, "ok", 0), (120, "note", 0), (-600, "problem", 3), (600, "problem", 3)]
)
def test_a_wrong_clock_is_found_by_the_date_of_an_answer(ahead, verdict, code, examined, plain):
    plain.ahead = ahead
    found = of(examined(plain.url, calls=False), "clock")
    assert (found.verdict, found.exit_code) == (verdict, code)
    if ahead:
        assert ("behind" if ahead > 0 else "ahead of") in found.evidence


# ---- region and endpoint --------------------------------------------------------------------------------------


def test_the_region_is_told_with_who_chose_it(examined, private_home, monkeypatch):
    assert of(examined(network=False), "region").evidence == "us-east-1 (AWS_DEFAULT_REGION)"
    found = of(examined(region="eu-west-1", region_from="--region", network=False), "region")
    assert found.evidence.startswith("eu-west-1 (--region)")
    assert found.verdict == "ok"
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    found = of(examined(network=False), "region")
    assert (found.verdict, found.evidence) == ("note", "us-east-1 (chosen by bx: none is configured)")
    _aws(private_home, config="[default]\nregion = eu-north-1\n")
    assert of(examined(network=False), "region").evidence == "eu-north-1 (the profile of the AWS configuration)"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    assert of(examined(network=False), "region").evidence == "eu-north-1 (AWS_DEFAULT_REGION)"


def test_two_regions_are_a_note(examined):
    variables = {"AWS_DEFAULT_REGION": "us-east-1"}
    found = of(examined(region="eu-west-1", region_from="AWS_REGION", variables=variables, network=False), "region")
    assert found.verdict == "note"
    assert "us-east-1" in found.evidence


def test_what_is_no_region_is_a_problem(examined):
    found = of(examined(region="not a region", network=False), "endpoint")
    assert (found.verdict, found.cause, found.exit_code) == ("problem", "bad-region", 2)


def test_an_endpoint_that_a_variable_chose_is_told(examined, monkeypatch):
    name = "AWS_ENDPOINT_URL_BEDROCK_RUNTIME"
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    found = of(examined(network=False, variables={name: "http://127.0.0.1:1"}), "endpoint")
    assert found.verdict == "note"
    assert name in found.evidence
    assert "AWS_ENDPOINT_URL_BEDROCK" in found.fix
    assert of(examined(region="eu-west-1", network=False, variables={}), "region").verdict == "ok"


# ---- the network ----------------------------------------------------------------------------------------------


def test_an_unknown_host_is_found_by_its_name(examined):
    exam = examined("http://bedrock.invalid")
    assert (of(exam, "dns").verdict, of(exam, "dns").exit_code) == ("problem", 6)
    assert of(exam, "answer", "nova")[1:3] == ("skipped", "not before this is set right: dns")


def test_a_closed_port_is_found(examined):
    found = of(examined(closed_port()), "tcp")
    assert (found.verdict, found.exit_code, found.cause) == ("problem", 6, "unreachable")


@pytest.mark.parametrize(
    ("listener", "check", "cause"),
    [(full_listener, "tcp", "connect-timeout"), (silent_listener, "http", "read-timeout")],
)
def test_who_does_not_answer_is_not_waited_for(listener, check, cause, examined, monkeypatch):
    monkeypatch.setattr("bx.doctor.connection._PATIENCE", 0.3)
    with listener() as url:
        found = of(examined(url), check)
    assert (found.verdict, found.exit_code, found.cause) == ("problem", 6, cause)


def test_a_certificate_of_an_unknown_authority_is_a_problem_until_it_is_trusted(
    examined, bedrock, tmp_path, monkeypatch
):
    url = bedrock(self_signed=tmp_path)
    found = of(examined(url), "tls")
    assert (found.verdict, found.exit_code, found.cause) == ("problem", 6, "certificate")
    (authority,) = tmp_path.rglob("authority.pem")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    exam = examined(url)
    assert of(exam, "tls").evidence.startswith("TLSv1.3, certificate by ")
    assert of(exam, "answer", "nova").verdict == "ok"


def test_a_bundle_of_certificates_that_is_not_there_is_named(examined, bedrock, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    found = of(examined(bedrock(self_signed=tmp_path)), "tls")
    assert found.verdict == "problem"
    assert "missing.pem" in found.evidence


def test_https_where_there_is_http_is_told(examined, bedrock):
    found = of(examined(bedrock().replace("http:", "https:")), "tls")
    assert (found.verdict, found.cause) == ("problem", "not-https")


def test_a_proxy_is_told_without_its_password(examined, bedrock, tmp_path, plain, monkeypatch):
    url = bedrock(self_signed=tmp_path)
    (authority,) = tmp_path.rglob("authority.pem")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    monkeypatch.setenv("HTTPS_PROXY", plain.url.replace("//", "//ann:open-sesame@"))
    exam = examined(url)
    assert of(exam, "proxy").evidence == plain.url.replace("//", "//***@")
    assert of(exam, "answer", "nova").verdict == "ok"
    assert len(plain.tunnels) >= 2  # the doctor's own, and the client's
    assert "sesame" not in repr(exam.found)


@pytest.mark.parametrize("proxy", ["ann:open-sesame@127.0.0.1:1", "http://ann:open/sesame@127.0.0.1:1"])
def test_a_proxy_s_password_is_not_shown_in_whatever_form_it_stands(proxy, examined, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    exam = examined("https://bedrock-runtime.us-east-1.amazonaws.com")
    assert of(exam, "proxy").cause == "proxy"
    assert "sesame" not in repr(exam.found)
    assert "open" not in of(exam, "proxy").evidence


def test_a_proxy_that_is_not_there_is_a_problem(examined, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", closed_port())
    exam = examined("https://bedrock-runtime.us-east-1.amazonaws.com")
    (found,) = [each for each in exam.found if each.verdict == "problem"]
    assert (found.check, found.exit_code, found.cause) == ("proxy", 6, "proxy")


# ---- identity and the control plane ---------------------------------------------------------------------------


def test_the_identity_is_told(examined, bedrock, plain, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", plain.url)
    assert of(examined(bedrock()), "identity").evidence == plain.identity[1]


def test_keys_that_aws_does_not_know_are_a_problem(examined, bedrock, plain, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", plain.url)
    plain.identity = 403, "InvalidClientTokenId"
    exam = examined(bedrock())
    assert (of(exam, "identity").cause, of(exam, "identity").exit_code) == ("invalid-token", 3)
    assert of(exam, "answer", "nova").verdict == "skipped"


def test_without_a_way_to_sts_the_rest_is_looked_at(examined, bedrock, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", closed_port())
    exam = examined(bedrock())
    assert of(exam, "identity").verdict == "note"
    assert of(exam, "answer", "nova").verdict == "ok"


def test_keys_for_a_stand_in_are_not_shown_to_aws(examined, bedrock):
    assert of(examined(bedrock()), "identity").verdict == "skipped"


def test_who_may_not_list_models_may_call_them(examined, bedrock):
    exam = examined(bedrock("AccessDeniedException,action=bedrock:ListFoundationModels"))
    note, listed = [each for each in exam.found if each.check == "control plane"]
    assert (note.verdict, note.cause) == ("note", "iam-permission")
    assert "bedrock:ListFoundationModels" in note.fix
    assert "inference profiles" in listed.evidence
    assert doctor.worst(exam.found) == 0


def test_an_expired_session_is_found_at_the_first_question(examined, bedrock):
    exam = examined(bedrock("ExpiredTokenException"))
    assert doctor.worst(exam.found) == 3
    assert next(each.cause for each in exam.found if each.verdict == "problem") == "expired-token"


# ---- models ---------------------------------------------------------------------------------------------------


def test_the_two_permissions_are_told_apart(examined, bedrock):
    exam = examined(bedrock("AccessDeniedException,action=bedrock:InvokeModelWithResponseStream"))
    assert of(exam, "answer", "nova").verdict == "ok"
    found = of(exam, "stream", "nova")
    assert (found.verdict, found.exit_code, found.cause) == ("problem", 4, "stream-permission")
    exam = examined(bedrock("AccessDeniedException,action=bedrock:InvokeModel"))
    found = of(exam, "answer", "nova")
    assert (found.verdict, found.exit_code, found.cause) == ("problem", 4, "iam-permission")
    assert "inference-profile/global.amazon.nova-2-lite-v1:0" in found.fix
    assert of(exam, "stream", "nova").verdict == "ok"


@pytest.mark.parametrize(
    ("fault", "cause", "code"),
    [
        ("ThrottlingException", "throttled", 5),
        ("ThrottlingException,message=Too many tokens per day", "daily-tokens", 5),
        ("ResourceNotFoundException,operation=Converse*", "use-case-form", 4),
        ("ServiceUnavailableException,operation=Converse*", "no-capacity", 7),
        ("InternalServerException,operation=Converse*", "service-failed", 7),
        ("reset,operation=Converse", "connection-closed", 6),
    ],
)
def test_a_model_that_fails_is_explained_and_not_called_again(fault, cause, code, examined, bedrock):
    exam = examined(bedrock(fault))
    found = of(exam, "answer", "nova")
    assert (found.verdict, found.cause, found.exit_code) == ("problem", cause, code)
    assert found.fix
    assert of(exam, "stream", "nova")[1:3] == ("skipped", "the answer in one piece failed already")
    assert doctor.worst(exam.found) == code
    assert not exam.spent


@pytest.mark.parametrize("fault", ["truncate", "hangup,after=2", "bad-crc", "ThrottlingException,after=1"])
def test_a_stream_that_breaks_is_found(fault, examined, bedrock):
    exam = examined(bedrock(f"{fault},operation=ConverseStream"))
    assert of(exam, "answer", "nova").verdict == "ok"
    found = of(exam, "stream", "nova")
    assert (found.verdict, found.exit_code) == ("problem", 7)


def test_the_failure_of_a_model_that_nobody_chose_is_a_note(examined, bedrock):
    other = CLAUDE._replace(chosen=False)
    exam = examined(bedrock("ResourceNotFoundException,model=*claude*"), models=[NOVA, other])
    found = of(exam, "answer", "claude")
    assert (found.verdict, found.exit_code, found.cause) == ("note", 0, "use-case-form")
    assert doctor.worst(exam.found) == 0


def test_the_request_id_of_a_refusal_is_kept(examined, bedrock):
    assert of(examined(bedrock("ThrottlingException,operation=Converse")), "answer", "nova").request_id


@pytest.mark.parametrize("told", [True, False])
def test_an_id_that_needs_a_profile_gets_the_profiles_named(told, examined, bedrock):
    base = Subject("mine", "amazon.nova-2-lite-v1:0", chosen=True)
    url = bedrock(*(() if told else ("AccessDeniedException,operation=List*",)))
    exam = examined(url, models=[base])
    found = of(exam, "profile", "mine")
    assert found.verdict == "note"
    assert "global.amazon.nova-2-lite-v1:0" in found.fix
    assert "us.amazon.nova-2-lite-v1:0" in found.fix
    assert "eu.amazon" not in found.fix
    assert (of(exam, "answer", "mine").cause, doctor.worst(exam.found)) == ("on-demand-throughput", 4)


@pytest.mark.parametrize("network", [True, False])
def test_a_profile_of_another_geography_is_told(network, examined, bedrock):
    model = Subject("mine", "eu.anthropic.claude-sonnet-4-6", chosen=True)
    found = of(examined(bedrock(), models=[model], network=network, calls=False), "profile", "mine")
    assert found.verdict == "note"
    assert "global.anthropic.claude-sonnet-4-6" in found.fix


def test_a_model_that_is_unknown_here_is_asked_all_the_same(examined, bedrock):
    model = Subject("mine", "acme.model-1", chosen=True)
    exam = examined(bedrock(), models=[model])
    assert "nothing" in of(exam, "profile", "mine").evidence
    assert of(exam, "answer", "mine").verdict in ("ok", "problem")


def test_what_a_refusal_has_taught_is_told(examined, private_home):
    from bx.memory import Memory

    Memory("structured", 3600 * 24 * 7).put(f"here {CLAUDE.id}", {"rung": "tool", "strict": False})
    found = of(examined(models=[CLAUDE], scope="here", network=False), "json", "claude")
    assert found.evidence == "JSON by a forced tool, checked (learned from a refusal)"


def test_a_name_without_a_model_is_told(examined):
    from bx.catalogue import UnknownModel

    failure = UnknownModel("llama has no inference profile in the geography 'eu'", "Choose --geo us")
    exam = examined(models=[Subject("llama", "meta.llama", chosen=True, failure=failure)], network=False)
    found = of(exam, "profile", "llama")
    assert (found.verdict, found.exit_code, found.fix) == ("problem", 2, "Choose --geo us")


# ---- this machine ---------------------------------------------------------------------------------------------


def test_a_damaged_model_file_is_found(examined, pulled):
    assert of(examined(network=False), "embedded").verdict == "ok"
    pulled.write_bytes(pulled.read_bytes()[:-1] + b"!")
    found = of(examined(network=False), "embedded")
    assert (found.verdict, found.exit_code) == ("problem", 7)
    assert "bx pull" in found.fix


def test_a_model_file_that_is_not_here_is_a_note_unless_it_was_named(examined):
    found = of(examined(network=False), "embedded")
    assert (found.verdict, found.fix) == ("note", f"bx pull {weights.DEFAULT}")
    local = Subject("local", f"local:{weights.DEFAULT}", chosen=True)
    found = of(examined(models=[local], named=True, network=False), "embedded")
    assert (found.verdict, found.exit_code) == ("problem", 2)


def test_an_embedded_model_needs_nothing_of_aws(examined, local_weights, loaded, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    local = Subject("local", f"local:{weights.DEFAULT}", chosen=True)
    exam = examined(models=[local], named=True, engine=loaded)
    assert doctor.worst(exam.found) == 0
    assert of(exam, "aws").verdict == "skipped"
    assert of(exam, "answer", "local").verdict == "ok"
    assert "credentials" not in verdicts(exam)


def test_a_corrupt_ledger_is_found_and_left_alone(examined, tmp_path):
    store = Store(tmp_path / "ledger.db")
    store.write({"at": 1.0, "model_id": "echo"})
    store.close()
    exam = examined(network=False, ledger=(str(store.path), store.check))
    assert of(exam, "ledger").verdict == "ok"
    damaged = b"no database" * 1000
    store.path.write_bytes(damaged)
    found = of(examined(network=False, ledger=(str(store.path), Store(store.path).check)), "ledger")
    assert (found.verdict, found.exit_code) == ("problem", 2)
    assert str(store.path) in found.fix
    assert store.path.read_bytes() == damaged


def test_where_no_ledger_is_kept_there_is_nothing_to_look_at(examined):
    assert of(examined(network=False), "ledger")[1:3] == ("skipped", "none is kept")


# ---- the whole ------------------------------------------------------------------------------------------------


def test_the_worst_finding_is_the_first_problem(examined, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    (tmp_path / "ledger.db").write_bytes(b"no database" * 1000)
    exam = examined(network=False, ledger=("ledger", Store(tmp_path / "ledger.db").check))
    assert [each.exit_code for each in exam.found if each.verdict == "problem"] == [3, 2]
    assert doctor.worst(exam.found) == 3


def test_a_mistake_of_ours_is_a_finding_and_the_rest_is_examined(examined, bedrock):
    exam = examined(bedrock(), cost=lambda _: 1 / 0)
    assert doctor.worst(exam.found) == 1
    assert of(exam, "ledger").verdict == "skipped"


@given(st.text() | st.binary().map(lambda told: "bedrock-api-key-" + base64.b64encode(told).decode()))
def test_whatever_an_api_key_holds_it_can_be_looked_at(token):
    keys = surroundings._of_api_key(token)
    assert keys.expires is None or keys.expires.astimezone()


@given(st.datetimes() | st.text())
def test_whatever_a_file_says_of_an_expiry_can_be_told(written):
    moment = surroundings._moment(str(written))
    assert moment is None or f"{moment.astimezone():%Y-%m-%d}"


def test_every_problem_has_an_exit_code_and_a_fix(examined, bedrock):
    faults = ("AccessDeniedException", "ThrottlingException", "ExpiredTokenException", "ModelTimeoutException")
    for fault in faults:
        for found in examined(bedrock(fault), models=[NOVA, CLAUDE]).found:
            assert "\n" not in found.evidence + found.fix
            assert bool(found.exit_code) == (found.verdict == "problem")
            assert found.fix or found.verdict != "problem", found
