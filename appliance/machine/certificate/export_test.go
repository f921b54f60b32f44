package certificate

import "crypto/x509"

// TrustAlone has the certificate's public authorities be those.
func (c *Certificate) TrustAlone(roots *x509.CertPool) { c.roots = roots }
