//! One processor for three homes: signs the requests that pass it, as HTTP Message Signatures (RFC 9421) with
//! HMAC-SHA256.
//!
//! At the edge of a network it tells the services behind that a request came in through the front door; on the way out it
//! tells a partner who is asking. Nobody else signs: a request that brings a signature along is refused.
//!
//! The type does not know where it runs. The example `signer` serves it to a proxy over gRPC, `axum` and `tonic` put it in
//! front of a service, and `hyper_client` behind a client, all without a change to it.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use extproc_sdk::{
    BoxError, Call, Headers, HeadersReply, Immediate, Processor, Trailers, TrailersReply,
};
use http::StatusCode;
use ring::hmac;

/// Components that a signature covers (RFC 9421, section 2).
const COVERED: &str = r#"("@method" "@authority" "@path")"#;

/// Signs requests, and checks signatures.
#[derive(Clone, Debug)]
pub struct Signer {
    key: hmac::Key,
    key_id: String,
}

impl Signer {
    /// A signer with a shared secret, and the name under which receivers know it.
    pub fn new(key_id: impl Into<String>, secret: &[u8]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
            key_id: key_id.into(),
        }
    }

    /// The signer of the examples. Its secret is none.
    pub fn demo() -> Self {
        Self::new("demo", b"not a secret")
    }

    /// `Signature-Input` and `Signature` of a request; `created` in seconds since 1970.
    pub fn sign(&self, request: Request<'_>, created: u64) -> (String, String) {
        let parameters = format!(
            r#"{COVERED};created={created};keyid="{}";alg="hmac-sha256""#,
            self.key_id
        );
        let tag = hmac::sign(&self.key, request.base(&parameters).as_bytes());
        let tag = STANDARD.encode(tag);
        (format!("sig1={parameters}"), format!("sig1=:{tag}:"))
    }

    /// Tells a receiver whether `Signature-Input` and `Signature` are of this key, and of this request.
    ///
    /// The receiver decides how old a signature may be; its time stands in `created`.
    pub fn verify(&self, request: Request<'_>, input: &str, signature: &str) -> bool {
        let parameters = input.strip_prefix("sig1=");
        let Some(parameters) = parameters.filter(|value| value.starts_with(COVERED)) else {
            return false;
        };
        let tag = signature
            .strip_prefix("sig1=:")
            .and_then(|rest| rest.strip_suffix(':'))
            .and_then(|tag| STANDARD.decode(tag).ok());
        let base = request.base(parameters);
        tag.is_some_and(|tag| hmac::verify(&self.key, base.as_bytes(), &tag).is_ok())
    }
}

impl Signer {
    /// [`verify`](Self::verify) for a request as services get it.
    pub fn has_signed<B>(&self, request: &http::Request<B>) -> bool {
        let header = |name: &str| {
            let value = request
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok());
            value.unwrap_or_default()
        };
        // HTTP/1.1 has the host in a header, HTTP/2 in the target.
        let authority = request
            .uri()
            .authority()
            .map(|authority| authority.as_str());
        let covered = Request {
            method: request.method().as_str(),
            authority: authority.unwrap_or_else(|| header("host")),
            path: request.uri().path(),
        };
        self.verify(covered, header("signature-input"), header("signature"))
    }
}

/// The parts of a request that a signature covers.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// Host and port, as in `Host`.
    pub authority: &'a str,
    /// The path; a query is not part of it, and left out here.
    pub path: &'a str,
}

impl Request<'_> {
    /// Returns the text that is signed (RFC 9421, section 2.5).
    fn base(&self, parameters: &str) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!(
            "\"@method\": {}\n\"@authority\": {}\n\"@path\": {path}\n\"@signature-params\": {parameters}",
            self.method,
            self.authority.to_ascii_lowercase(),
        )
    }
}

impl Processor for Signer {
    type State = ();

    async fn request_headers(
        &self,
        _: &mut Call<()>,
        headers: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        if headers.get("signature").is_some() || headers.get("signature-input").is_some() {
            let refusal = Immediate::new(StatusCode::FORBIDDEN)
                .grpc_status(tonic::Code::PermissionDenied)
                .body("requests are signed here, and nowhere else");
            return Ok(refusal.into());
        }
        let method = headers.method().ok_or("a request without a method")?;
        let request = Request {
            method: method.as_str(),
            authority: headers.authority().ok_or("a request without a host")?,
            path: headers.path().ok_or("a request without a path")?,
        };
        let created = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let (input, signature) = self.sign(request, created);
        Ok(HeadersReply::new()
            .set("signature-input", input)
            .set("signature", signature))
    }

    async fn response_headers(
        &self,
        _: &mut Call<()>,
        _: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        Ok(HeadersReply::new().set("x-signed-by", &self.key_id))
    }

    async fn response_trailers(
        &self,
        _: &mut Call<()>,
        _: &Trailers,
    ) -> Result<TrailersReply, BoxError> {
        Ok(TrailersReply::new().set("x-signed-to-the-end", &self.key_id))
    }
}

#[cfg(test)]
mod tests {
    use extproc_sdk::testing::{FakeProxy, Message};

    use super::*;

    const REQUEST: Request<'_> = Request {
        method: "POST",
        authority: "Example.test",
        path: "/orders?page=2",
    };

    #[test]
    fn the_base_is_that_of_the_standard() {
        let base = REQUEST.base(r#"("@method" "@authority" "@path");created=7"#);
        let lines = [
            r#""@method": POST"#,
            r#""@authority": example.test"#,
            r#""@path": /orders"#,
            r#""@signature-params": ("@method" "@authority" "@path");created=7"#,
        ];
        assert_eq!(base, lines.join("\n"));
    }

    #[test]
    fn a_signature_is_good_for_its_request_and_key_only() {
        let signer = Signer::demo();
        let (input, signature) = signer.sign(REQUEST, 7);
        assert!(signer.verify(REQUEST, &input, &signature));
        let other = Request {
            path: "/admin",
            ..REQUEST
        };
        assert!(!signer.verify(other, &input, &signature));
        assert!(!signer.verify(REQUEST, &input.replace("=7", "=8"), &signature));
        assert!(!Signer::new("demo", b"guess").verify(REQUEST, &input, &signature));
        assert!(!signer.verify(REQUEST, "sig1=();alg=\"none\"", &signature));
        assert!(!signer.verify(REQUEST, &input, "sig1=::"));
    }

    #[tokio::test]
    async fn what_passes_is_signed_and_what_is_signed_does_not_pass() {
        let proxy = FakeProxy::new(Signer::demo()).response_trailers(true);
        let mut exchange = proxy.exchange();
        let request = exchange.request(Message::request("GET", "/a?b")).await;
        let request = request.expect("an outcome").forwarded().expect("a request");
        let signed = Request {
            method: "GET",
            authority: "example.test",
            path: "/a",
        };
        let (input, signature) = (request.get("signature-input"), request.get("signature"));
        assert!(Signer::demo().verify(signed, input.expect("an input"), signature.expect("one")));
        let response = Message::response(200).body("x").trailer("t", "1");
        let response = exchange.response(response).await.expect("an outcome");
        let response = response.forwarded().expect("a response");
        assert_eq!(response.get("x-signed-by"), Some("demo"));
        assert_eq!(response.get_trailer("x-signed-to-the-end"), Some("demo"));

        let forged = Message::request("GET", "/").header("signature", "sig1=:Zm9v:");
        let refused = proxy.exchange().request(forged).await.expect("an outcome");
        assert_eq!(refused.responded().expect("a response").status(), 403);
    }
}
