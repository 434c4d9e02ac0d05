//! Lets requests with a valid JSON web token pass, and answers the others with 401 at once.
//!
//! `cargo run --example jwt -- --secret change-me`
//!
//! The upstream never sees a token: it gets the verified subject in `x-user`, and a client cannot forge that header.
//! Needs no more of the proxy than request headers; see `examples/README.md` for the proxy's side.

use std::process::ExitCode;

use clap::Parser;
use examples::hs256;
use extproc_sdk::{BoxError, Call, Headers, HeadersReply, Immediate, Processor};
use http::StatusCode;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use quickstart::cli::{self, ListenAddr};
use serde::Deserialize;

/// Checks tokens.
struct Jwt {
    key: DecodingKey,
    validation: Validation,
}

/// Claims that a token has to have. `exp` and `aud` are checked, and required, by the library.
#[derive(Deserialize)]
struct Claims {
    sub: String,
}

impl Jwt {
    fn new(secret: &str, audience: &str) -> Self {
        hs256::install();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        Self {
            key: DecodingKey::from_secret(secret.as_bytes()),
            validation,
        }
    }

    /// Whose token it is, or what is wrong with it.
    fn subject(&self, headers: &Headers) -> Result<String, Refusal> {
        let authorization = headers.get_str("authorization").unwrap_or_default();
        let Some((scheme, token)) = authorization.split_once(' ') else {
            return Err(Refusal::Missing);
        };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Refusal::Missing);
        }
        let token = decode::<Claims>(token.trim(), &self.key, &self.validation)?;
        Ok(token.claims.sub)
    }
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("a bearer token is needed")]
    Missing,
    #[error("the token is not valid: {0}")]
    Invalid(#[from] jsonwebtoken::errors::Error),
}

impl From<Refusal> for Immediate {
    fn from(refusal: Refusal) -> Self {
        // RFC 6750, section 3: no error code for a request that has no token.
        let challenge = match refusal {
            Refusal::Missing => "Bearer",
            Refusal::Invalid(_) => r#"Bearer error="invalid_token""#,
        };
        Self::new(StatusCode::UNAUTHORIZED)
            .set("www-authenticate", challenge)
            .grpc_status(tonic::Code::Unauthenticated)
            .details("jwt_refused")
            .body(format!("{refusal}\n"))
    }
}

impl Processor for Jwt {
    type State = ();

    async fn request_headers(
        &self,
        _: &mut Call<()>,
        headers: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        Ok(match self.subject(headers) {
            Ok(subject) => HeadersReply::new()
                .remove("authorization")
                .set("x-user", subject)
                .skip_rest(),
            Err(refusal) => Immediate::from(refusal).into(),
        })
    }
}

/// A processor that lets requests with a valid JSON web token pass.
#[derive(Parser)]
struct Args {
    /// Address to listen on: HOST:PORT, or :PORT for 127.0.0.1; port 0 picks a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:18080")]
    listen: ListenAddr,
    /// The secret that tokens are signed with (HS256).
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    secret: String,
    /// Whom tokens have to be made for (`aud`).
    #[arg(long, default_value = "example")]
    audience: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    cli::exit(cli::serve(Jwt::new(&args.secret, &args.audience), &args.listen).await)
}

#[cfg(test)]
mod tests {
    use extproc_sdk::testing::{FakeProxy, Message, Outcome};
    use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp};
    use serde_json::{Value, json};

    use super::*;

    fn token(secret: &str, claims: &Value) -> String {
        hs256::install();
        let key = EncodingKey::from_secret(secret.as_bytes());
        encode(&Header::default(), claims, &key).expect("a token")
    }

    async fn ask(authorization: Option<&str>) -> Outcome {
        let mut request = Message::request("GET", "/").header("x-user", "root");
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let mut exchange = FakeProxy::new(Jwt::new("secret", "shop")).exchange();
        exchange.request(request).await.expect("an outcome")
    }

    #[tokio::test]
    async fn a_valid_token_becomes_a_user() {
        let soon = get_current_timestamp() + 60;
        let token = token(
            "secret",
            &json!({"sub": "alice", "aud": "shop", "exp": soon}),
        );
        for scheme in ["Bearer", "bearer"] {
            let outcome = ask(Some(&format!("{scheme} {token}"))).await;
            let request = outcome.forwarded().expect("a request");
            assert_eq!(request.get_all("x-user").collect::<Vec<_>>(), ["alice"]);
            assert_eq!(request.get("authorization"), None);
        }
    }

    #[tokio::test]
    async fn anything_else_is_refused_at_once() {
        let now = get_current_timestamp();
        let claims = |aud: &str, exp: u64| json!({"sub": "alice", "aud": aud, "exp": exp});
        let tokens = [
            token("another", &claims("shop", now + 60)),
            token("secret", &claims("another", now + 60)),
            token("secret", &claims("shop", now - 3600)),
            token("secret", &json!({"sub": "alice", "aud": "shop"})),
            "not.a.token".to_owned(),
        ];
        for token in tokens {
            let outcome = ask(Some(&format!("Bearer {token}"))).await;
            let response = outcome.responded().expect("a response");
            assert_eq!(response.status(), 401);
            let challenge = response.get("www-authenticate");
            assert_eq!(challenge, Some(r#"Bearer error="invalid_token""#));
        }
        for authorization in [None, Some("Basic YTpi"), Some("Bearer")] {
            let response = ask(authorization).await.responded().expect("a response");
            assert_eq!(response.get("www-authenticate"), Some("Bearer"));
            assert_eq!(response.text(), "a bearer token is needed\n");
        }
    }
}
