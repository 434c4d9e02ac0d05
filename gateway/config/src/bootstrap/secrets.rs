//! `Secret`: certificates and roots that stand in one place of the file and are named where they are used.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    tls::{CertificateValidationContext, TlsCertificate},
    value::Whatever,
};
use crate::document::{Fault, Located, Reader, Subtree};

/// `envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig`.
#[derive(Debug, Deserialize)]
pub(super) struct SdsSecretConfig {
    #[serde(default)]
    name: String,
}

/// `envoy.extensions.transport_sockets.tls.v3.Secret`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Secret {
    name: String,
    tls_certificate: Option<Located<TlsCertificate>>,
    validation_context: Option<Located<CertificateValidationContext>>,
    generic_secret: Option<Located<Whatever>>,
}

/// Secrets by name, each kind with names of its own.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    certificates: BTreeMap<String, Located<TlsCertificate>>,
    validations: BTreeMap<String, Located<CertificateValidationContext>>,
    /// Some could not be read; to name one is no fault of its own.
    incomplete: bool,
}

impl Secrets {
    pub(super) fn read(reader: &Reader<'_>, trees: &[Subtree]) -> Result<Self, Fault> {
        let mut secrets = Self::default();
        for tree in trees {
            if let Err(fault) = secrets.add(reader, tree) {
                reader.refuse(fault)?;
                secrets.incomplete = true;
            }
        }
        Ok(secrets)
    }

    fn add(&mut self, reader: &Reader<'_>, tree: &Subtree) -> Result<(), Fault> {
        let Secret {
            name,
            tls_certificate,
            validation_context,
            generic_secret,
        } = reader.read(tree.node)?;
        let twice = match (tls_certificate, validation_context, generic_secret) {
            (Some(certificate), None, None) => self
                .certificates
                .insert(name.clone(), certificate)
                .is_some(),
            (None, Some(context), None) => self.validations.insert(name.clone(), context).is_some(),
            // No filter here reads one.
            (None, None, Some(_)) => false,
            _ => {
                return Err(Fault::at(
                    tree.node,
                    "one and only one of tls_certificate, validation_context and generic_secret has to be set",
                ));
            }
        };
        match twice {
            true => Err(Fault::at(
                tree.node,
                format!("another secret of this kind is named {name:?}, too"),
            )),
            false => Ok(()),
        }
    }

    /// The certificate that is named here.
    pub(super) fn certificate(
        &self,
        named: &Located<SdsSecretConfig>,
    ) -> Result<&Located<TlsCertificate>, Fault> {
        self.find(&self.certificates, "tls_certificate", named)
    }

    /// The validation that is named here.
    pub(super) fn validation(
        &self,
        named: &Located<SdsSecretConfig>,
    ) -> Result<&Located<CertificateValidationContext>, Fault> {
        self.find(&self.validations, "validation_context", named)
    }

    fn find<'a, T>(
        &self,
        all: &'a BTreeMap<String, T>,
        kind: &str,
        named: &Located<SdsSecretConfig>,
    ) -> Result<&'a T, Fault> {
        let name = &named.value.name;
        all.get(name).ok_or_else(|| {
            let also = match self.incomplete {
                true => " that could be read",
                false => "",
            };
            Fault::at(
                named.node,
                format!("no secret of static_resources{also} with a {kind} is named {name:?}"),
            )
        })
    }
}
