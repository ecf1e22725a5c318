package gitops

import "testing"

const fluxSources = `
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: fleet, namespace: flux-system}
spec: {interval: 1m, url: "ssh://git@git.example.com/acme/fleet", ref: {branch: main, tag: v1.2.0}}
---
apiVersion: source.toolkit.fluxcd.io/v1beta2
kind: GitRepository
metadata: {name: bare, namespace: flux-system}
spec: {interval: 1m, url: "https://git.example.com/acme/bare"}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: HelmRepository
metadata: {name: charts, namespace: flux-system}
spec: {interval: 1h, url: "https://charts.example.com/"}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: HelmRepository
metadata: {name: oci-charts, namespace: flux-system}
spec: {type: oci, interval: 1h, url: "oci://ghcr.io/acme/charts"}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: OCIRepository
metadata: {name: robot, namespace: robots}
spec: {interval: 1h, url: "oci://ghcr.io/acme/charts/robot-app", ref: {semver: "1.x", tag: old}}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: OCIRepository
metadata: {name: latest, namespace: robots}
spec: {interval: 1h, url: "oci://ghcr.io/acme/charts/camera"}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: HelmChart
metadata: {name: lidar, namespace: flux-system}
spec: {chart: lidar, version: 3.1.0, sourceRef: {kind: HelmRepository, name: charts}, valuesFiles: [values-prod.yaml]}
---
apiVersion: image.toolkit.fluxcd.io/v1beta2
kind: ImagePolicy
metadata: {name: robot}
spec: 7
---
`

const fluxReferences = `
git ssh://git@git.example.com/acme/fleet @v1.2.0 for GitRepository flux-system/fleet spec.url
git https://git.example.com/acme/bare @master for GitRepository flux-system/bare spec.url
chart oci://ghcr.io/acme/charts/robot-app @1.x for OCIRepository robots/robot spec.url
chart oci://ghcr.io/acme/charts/camera @latest for OCIRepository robots/latest spec.url
chart https://charts.example.com lidar@3.1.0 for HelmChart flux-system/lidar spec.chart
`

func TestFluxKustomization(t *testing.T) {
	check(t, fluxSources+`
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: apps, namespace: flux-system}
spec:
  interval: 10m
  path: ./apps/site-a
  suspend: true
  sourceRef: {kind: GitRepository, name: fleet}
  targetNamespace: robots
  namePrefix: a-
  nameSuffix: -x
  commonMetadata: {labels: {team: fleet}, annotations: {who: me}}
  patches:
  - patch: |
      - op: add
        path: /x
        value: y
    target: {kind: Deployment, labelSelector: app=robot}
  patchesStrategicMerge: [{kind: Deployment, metadata: {name: robot}}]
  patchesJson6902: [{patch: [{op: remove, path: /spec}], target: {kind: Job, name: x}}]
  images:
  - {name: robot, newName: registry.example.com/robot, newTag: "2"}
  - {name: camera, newTag: "2", digest: sha256:24a0c4b4a4c0eb97a1aabb8e29f18e917d05abfe1b7a7c07857230879ce7d3d3}
  components: [../../components/debug]
  postBuild:
    substitute: {cluster: site-a}
    substituteFrom:
    - {kind: ConfigMap, name: vars}
    - {kind: Secret, name: vars}
    - {kind: Secret, name: none, optional: true}
    - {kind: Secret, name: none}
    - {kind: ConfigMap, name: sealed}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: vars, namespace: flux-system}
data: {cluster: other, region: "eu\n", 1bad: x}
---
apiVersion: v1
kind: Secret
metadata: {name: vars}
data: {token: c2VjcmV0}
stringData: {region: us}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: sealed, namespace: flux-system}
data: {x: 'ENC[AES256_GCM,data:x]'}
sops: {mac: x}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1beta2
kind: Kustomization
metadata: {name: root}
spec: {sourceRef: {kind: GitRepository, name: bare, namespace: flux-system}, path: ../../up, postBuild: {substituteStrategy: Always}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: none, namespace: flux-system}
spec: {sourceRef: {kind: GitRepository, name: nobody}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: bucket, namespace: flux-system}
spec: {sourceRef: {kind: Bucket, name: b}}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: Bucket
metadata: {name: b, namespace: flux-system}
spec: {bucketName: x}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: artifact, namespace: robots}
spec: {sourceRef: {kind: OCIRepository, name: robot}}
---
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [7]
`, shelf{}, fluxReferences+`
task Kustomization flux-system/apps: ssh://git@git.example.com/acme/fleet@v1.2.0 path=apps/site-a kustomize={"commonAnnotations":{"who":"me"},"components":["../../components/debug"],"images":[{"name":"robot","newName":"registry.example.com/robot","newTag":"2"},{"digest":"sha256:24a0c4b4a4c0eb97a1aabb8e29f18e917d05abfe1b7a7c07857230879ce7d3d3","name":"camera"}],"labels":[{"includeSelectors":false,"pairs":{"team":"fleet"}}],"namePrefix":"a-","nameSuffix":"-x","namespace":"robots","patches":[{"patch":"- op: add\n  path: /x\n  value: y\n","target":{"kind":"Deployment","labelSelector":"app=robot"}}],"patchesJson6902":[{"patch":"[{\"op\":\"remove\",\"path\":\"/spec\"}]","target":{"kind":"Job","name":"x"}}],"patchesStrategicMerge":["kind: Deployment\nmetadata:\n  name: robot\n"]} plain=true substitute={"cluster":"site-a","region":"us","token":"secret"}
task Kustomization root: https://git.example.com/acme/bare@master path=up plain=true substitute={}
problem Kustomization flux-system/apps | spec.postBuild: spec.postBuild: variable "1bad", want letters, digits and _
problem Kustomization flux-system/apps | spec.postBuild.substituteFrom[3]: spec.postBuild.substituteFrom[3]: Secret flux-system/none is not among the manifests
problem Kustomization flux-system/apps | spec.postBuild.substituteFrom[4]: spec.postBuild.substituteFrom[4]: ConfigMap flux-system/sealed is encrypted: what it holds is only known at the site
problem Kustomization flux-system/none | spec.sourceRef: spec.sourceRef: GitRepository flux-system/nobody is not among the manifests
problem Kustomization flux-system/bucket | spec.sourceRef: spec.sourceRef: what Bucket flux-system/b gives is only known at the site
problem Bucket flux-system/b | : Bucket flux-system/b: what a Bucket holds is only known at the site
problem Kustomization robots/artifact | spec.sourceRef: spec.sourceRef: the manifests in an OCI artifact are not rendered, only charts
`)
}

func TestFluxHelmRelease(t *testing.T) {
	check(t, fluxSources+`
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: robot, namespace: robots}
spec:
  chart:
    spec:
      chart: robot-app
      version: ">=1.0.0"
      sourceRef: {kind: HelmRepository, name: charts, namespace: flux-system}
      valuesFiles: [values.yaml, values-prod.yaml]
      ignoreMissingValuesFiles: true
  targetNamespace: fleet
  install: {crds: Skip}
  valuesFrom:
  - {kind: ConfigMap, name: defaults}
  - {kind: Secret, name: tag, valuesKey: tag, targetPath: 'images[0].tag'}
  - {kind: ConfigMap, name: defaults, valuesKey: none, optional: true}
  - {kind: ConfigMap, name: defaults, valuesKey: none}
  - {kind: ConfigMap, name: defaults, valuesKey: note, targetPath: note, literal: true}
  values: {replicas: 2, images: [{name: own}]}
  postRenderers:
  - kustomize: {images: [{name: robot, newTag: "9"}]}
  - kustomize: {patches: [{patch: "kind: Job"}], images: [{name: camera, newTag: "8"}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: defaults, namespace: robots}
data:
  values.yaml: |
    replicas: 1
    debug: true
  note: a,b={c}
---
apiVersion: v1
kind: Secret
metadata: {name: tag, namespace: robots}
data: {tag: MS4y}
---
apiVersion: helm.toolkit.fluxcd.io/v2beta1
kind: HelmRelease
metadata: {name: oci, namespace: robots}
spec:
  releaseName: named
  chart: {spec: {chart: camera, version: 2.0.0, sourceRef: {kind: HelmRepository, name: oci-charts, namespace: flux-system}, valuesFile: old.yaml}}
---
apiVersion: helm.toolkit.fluxcd.io/v2beta2
kind: HelmRelease
metadata: {name: git, namespace: flux-system}
spec:
  suspend: true
  chart: {spec: {chart: ./charts/robot-app, sourceRef: {kind: GitRepository, name: fleet}, valuesFiles: [charts/robot-app/values-a.yaml]}}
---
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: by-ref, namespace: robots}
spec: {chartRef: {kind: OCIRepository, name: robot}}
---
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: by-chart, namespace: robots}
spec: {chartRef: {kind: HelmChart, name: lidar, namespace: flux-system}}
---
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: lost, namespace: robots}
spec: {chart: {spec: {chart: x, sourceRef: {kind: HelmRepository, name: nobody}}}}
`, shelf{}, fluxReferences+`
task HelmRelease robots/robot: https://charts.example.com@>=1.0.0 chart=robot-app release=fleet/fleet-robot file=values.yaml? file=values-prod.yaml? replace=true values={"debug":true,"images":[{"name":"own","tag":"1.2"}],"note":"a,b={c}","replicas":2} skipcrds=true post={"images":[{"name":"robot","newTag":"9"},{"name":"camera","newTag":"8"}],"patches":[{"patch":"kind: Job"}]}
task HelmRelease robots/oci: oci://ghcr.io/acme/charts/camera@2.0.0 chart=camera release=robots/named file=old.yaml replace=true
task HelmRelease flux-system/git: ssh://git@git.example.com/acme/fleet@v1.2.0 path=charts/robot-app release=flux-system/git file=charts/robot-app/values-a.yaml replace=true
task HelmRelease robots/by-ref: oci://ghcr.io/acme/charts/robot-app@1.x chart=robot-app release=robots/by-ref
task HelmRelease robots/by-chart: https://charts.example.com@3.1.0 chart=lidar release=robots/by-chart file=values-prod.yaml replace=true
chart https://charts.example.com robot-app@>=1.0.0 for HelmRelease robots/robot spec.chart.spec.chart
chart oci://ghcr.io/acme/charts/camera @2.0.0 for HelmRelease robots/oci spec.chart.spec.chart
problem HelmRelease robots/robot | spec.valuesFrom[3]: spec.valuesFrom[3]: ConfigMap robots/defaults has no none
problem HelmRelease robots/lost | spec.chart.spec.sourceRef: spec.chart.spec.sourceRef: HelmRepository robots/nobody is not among the manifests
`)
}

// TestFluxNearest: the manifests of two sites in one repository use the same names. Each takes what is its own.
func TestFluxNearest(t *testing.T) {
	site := func(name, branch string) []Object {
		list := objects(t, `
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: fleet, namespace: flux-system}
spec: {url: "https://git.example.com/acme/fleet", ref: {branch: `+branch+`}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: `+name+`, namespace: flux-system}
spec: {path: apps, sourceRef: {kind: GitRepository, name: fleet}, postBuild: {substituteFrom: [{kind: ConfigMap, name: vars}]}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: vars, namespace: flux-system}
data: {site: `+name+`}
`)
		for i := range list {
			list[i].Place.File = "clusters/" + name + "/" + list[i].Place.File
		}
		return list
	}
	got := dump(Expand(append(site("a", "main"), site("b", "canary")...), shelf{}))
	want := `task Kustomization flux-system/b: https://git.example.com/acme/fleet@canary path=apps plain=true substitute={"site":"b"}
task Kustomization flux-system/a: https://git.example.com/acme/fleet@main path=apps plain=true substitute={"site":"a"}
git https://git.example.com/acme/fleet @canary for GitRepository flux-system/fleet spec.url
git https://git.example.com/acme/fleet @main for GitRepository flux-system/fleet spec.url
`
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}

	// Side by side nobody can tell which one is meant.
	both := append(site("a", "main"), site("b", "canary")...)
	for i := range both {
		both[i].Place.File = "all.yaml"
	}
	found := Expand(both, shelf{})
	if len(found.Tasks) != 4 || len(found.Problems) != 2 {
		t.Errorf("%d tasks and %d problems, want 4 and 2:\n%s", len(found.Tasks), len(found.Problems), dump(found))
	}
}

func TestFleet(t *testing.T) {
	look := shelf{{"https://git.example.com/acme/fleet", "main"}: files(`-- apps/a/x.yaml --
-- apps/b/Chart.yaml --
-- apps/c/deep/fleet.yaml --
-- other/y.yaml --
`)}
	check(t, `
apiVersion: fleet.cattle.io/v1alpha1
kind: GitRepo
metadata: {name: robots, namespace: fleet-local}
spec: {repo: "https://git.example.com/acme/fleet", branch: main, paths: [apps/*, other, ../x], targetNamespace: robots}
---
apiVersion: fleet.cattle.io/v1alpha1
kind: GitRepo
metadata: {name: none}
spec: {repo: "https://git.example.com/acme/none"}
`, look, `
task GitRepo fleet-local/robots: https://git.example.com/acme/fleet@main path=apps/a release=robots/robots directory={"Recurse":true,"Include":"","Exclude":""}
task GitRepo fleet-local/robots: https://git.example.com/acme/fleet@main path=apps/b release=robots/robots
task GitRepo fleet-local/robots: https://git.example.com/acme/fleet@main path=other release=robots/robots directory={"Recurse":true,"Include":"","Exclude":""}
git https://git.example.com/acme/fleet @main for GitRepo fleet-local/robots spec.repo
git https://git.example.com/acme/none @master for GitRepo none spec.repo
problem GitRepo fleet-local/robots | spec.paths: apps/c/deep/fleet.yaml: a fleet.yaml is not read: what it makes of the folder is only known at the site
problem GitRepo fleet-local/robots | spec.paths: spec.paths: "../x": outside of the repository
problem GitRepo none | spec.repo: GitRepo none: what it holds is not known: https://git.example.com/acme/none at master is not in the bundle
`)
}
