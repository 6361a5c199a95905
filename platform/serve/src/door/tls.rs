//! TLS from files: a chain of certificates and its private key, in PEM.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{Error, ServerConfig};

use crate::config::TlsFiles;
use crate::files;
use crate::server::lock;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {}", .0.display(), .1)]
    File(PathBuf, io::Error),
    /// A file has nothing of what is looked for.
    #[error("{}: there is no {} in it; it must be PEM, as `-----BEGIN ...` begins", .0.display(), .1)]
    Missing(PathBuf, &'static str),
    /// A file is not as PEM must be.
    #[error("{}: it is no PEM: {}", .0.display(), .1)]
    Damaged(PathBuf, PemError),
    /// Key and certificate cannot be used, or not together.
    #[error("{} with the key {} cannot be used: {}", .0.display(), .1.display(), .2)]
    Unusable(PathBuf, PathBuf, Error),
}

/// The certificate that is shown, which may be renewed while connections last.
pub struct Tls {
    files: TlsFiles,
    config: Mutex<Arc<ServerConfig>>,
}

/// Longer than any chain of certificates.
const MOST_BYTES: u64 = 1 << 20;

impl Tls {
    /// Reads the files.
    pub fn read(files: TlsFiles) -> Result<Self, TlsError> {
        let config = Mutex::new(Arc::new(load(&files)?));
        Ok(Self { files, config })
    }

    /// Reads the files again. Those that cannot be used change nothing.
    pub fn renew(&self) -> Result<(), TlsError> {
        let fresh = Arc::new(load(&self.files)?);
        *lock(&self.config) = fresh;
        Ok(())
    }

    /// What greets the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&lock(&self.config)).into()
    }
}

fn load(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let TlsFiles { cert, key } = files;
    let unusable = |error| TlsError::Unusable(cert.clone(), key.clone(), error);
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(cert)?)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Damaged(cert.clone(), error))?;
    if chain.is_empty() {
        return Err(TlsError::Missing(cert.clone(), "certificate"));
    }
    let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| match error {
        PemError::NoItemsFound => TlsError::Missing(key.clone(), "private key"),
        error => TlsError::Damaged(key.clone(), error),
    })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    files::read(path, MOST_BYTES).map_err(|error| TlsError::File(path.to_owned(), error))
}
