package render_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// The strings are put together so that no scanner takes this file for a leak.
var (
	github = "ghp_" + "abcdefghijklmnopqrstuvwxyz0123456789"
	amazon = "AKIA" + "QWERTYUIOPASDFGH"
	slack  = "xoxb-" + "123456789012-abcdefghijklmnop"
	pem    = "-----BEGIN RSA PRIVATE" + " KEY-----"
)

// TestSecrets: what is secret is named by its place, and neither references, placeholders nor encrypted values are.
func TestSecrets(t *testing.T) {
	repo := folder(t, "r", parse(strings.NewReplacer("GITHUB", github, "AMAZON", amazon, "SLACK", slack, "PEM", pem).Replace(`
-- secret.yaml --
apiVersion: v1
kind: Secret
metadata: {name: literal}
stringData:
  password: hunter2
---
apiVersion: v1
kind: Secret
metadata: {name: encoded, namespace: x}
data: {a: "", key: aHVudGVyMg==}
---
apiVersion: v1
kind: Secret
metadata: {name: empty}
data: {}
---
apiVersion: v1
kind: Secret
metadata: {name: sops}
stringData: {password: "ENC[AES256_GCM,data:x]", other: "${FILLED_IN}"}
---
apiVersion: bitnami.com/v1alpha1
kind: SealedSecret
metadata: {name: sealed}
spec: {encryptedData: {password: AgBy3i4OJSWK+PiTySYZZA9rO43cGDEq}}
---
apiVersion: external-secrets.io/v1
kind: ExternalSecret
metadata: {name: external}
spec: {data: [{secretKey: password, remoteRef: {key: robots/password}}]}
-- config.yaml --
apiVersion: v1
kind: ConfigMap
metadata: {name: config}
data:
  token.txt: "export T=GITHUB"
  key.pem: |
    PEM
    MIIEpAIBAAKCAQEAwJ8fVh5xYHj0Qn3
  doc: "see PEM"
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  template:
    spec:
      containers:
      - image: a:1
        env:
        - {name: DB_PASSWORD, value: hunter2}
        - {name: OTHER_PASSWORD, valueFrom: {secretKeyRef: {name: a, key: password}}}
        - {name: EMPTY_PASSWORD, value: ""}
        - {name: PASSWORD_FILE, value: /run/secrets/password}
      imagePullSecrets: [{name: pull-secret}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
spec: {properties: {password: "not a secret here"}}
-- c/Chart.yaml --
apiVersion: v2
name: c
version: 1.0.0
-- c/values.yaml --
auth:
  password: changeme
  adminPassword: s3cr3t-value
  existingSecret: my-secret-name
  secretName: other-name
  token: vault:secret/data/x
  apiKey: Zm9vYmFyYmF6
  api_token: "{{ .Values.x }}"
  clientSecret: <your-secret>
  password2: ""
  passwordPolicy: strong
  usePassword: true
  tokenSecret: my-token
aws: AMAZON
example: AKIAIOSFODNN7EXAMPLE
slack:
- SLACK
- ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
-- c/templates/secret.yaml --
apiVersion: v1
kind: Secret
metadata: {name: "{{ .Release.Name }}"}
data:
  made: {{ randAlphaNum 20 | b64enc }}
  ca: {{ (genCA "x" 10).Cert | b64enc }}
---
apiVersion: v1
kind: Secret
metadata: {name: from-values}
data:
  p: {{ .Values.auth.adminPassword | b64enc }}
-- k/kustomization.yaml --
secretGenerator:
- name: generated
  literals: [user=robot-7]
`)))
	a := answer(t, closure.Request{Repositories: []closure.Repository{repo}})
	same(t, "problems", problems(a), "")
	same(t, "secrets", secrets(a), `
Secret with data | r c/templates/secret.yaml:12 [Secret from-values] data.p
password | r c/values.yaml:3 auth.adminPassword
token | r c/values.yaml:7 auth.apiKey
token | r c/values.yaml:14
token | r c/values.yaml:17
token | r config.yaml:5
private key | r config.yaml:7
password | r config.yaml:20 spec.template.spec.containers[0].env[0].value
Secret with data | r k/kustomization.yaml:0 [Secret generated-55dhfd2hgf] data.user
Secret with data | r secret.yaml:1 [Secret literal] stringData.password
Secret with data | r secret.yaml:7 [Secret x/encoded] data.key
`)
	data, err := json.Marshal(a)
	must(t, err)
	for _, content := range []string{"hunter2", "aHVudGVyMg", "s3cr3t", github, amazon, slack, "MIIE", "robot-7", "Zm9v"} {
		if strings.Contains(string(data), content) {
			t.Errorf("the answer holds %s", content)
		}
	}
}
