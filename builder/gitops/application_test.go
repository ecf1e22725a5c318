package gitops

import "testing"

func TestApplicationSources(t *testing.T) {
	check(t, `
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: robot-001, namespace: argocd}
spec:
  project: fleet
  destination: {server: https://kubernetes.default.svc, namespace: robots}
  source:
    repoURL: https://git.example.com/acme/robot-deployment.git
    targetRevision: main
    path: charts/robot-app
    helm:
      releaseName: robot
      valueFiles:
      - values-prod.yaml
      - ../../robot-values/$ARGOCD_APP_NAME.yaml
      - /defaults/site.yaml
      ignoreMissingValueFiles: true
      values: |
        image: {tag: "1.0"}
        replicas: 2
      parameters:
      - {name: image.tag, value: "1.1"}
      - {name: 'containers[0].image', value: 'camera:2'}
      - {name: 'node\.name', value: "7"}
      - {name: count, value: "3", forceString: true}
      - {name: list, value: "{a,b}"}
      - {name: text, value: "a,b"}
      skipCrds: true
      kubeVersion: 1.31.0
      apiVersions: [monitoring.coreos.com/v1/ServiceMonitor]
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: prometheus}
spec:
  destination: {name: in-cluster, namespace: monitoring}
  source: {repoURL: ignored}
  sources:
  - repoURL: https://charts.example.com
    chart: prometheus
    targetRevision: 15.7.1
    helm:
      valueFiles: ["$values/charts/prometheus/values.yaml", extra.yaml]
      valuesObject: {alerts: false}
      values: "alerts: true"
  - repoURL: https://robot:secret@git.example.com/acme/values.git
    targetRevision: dev
    ref: values
  - repoURL: ghcr.io/acme/charts
    chart: robot-app
    targetRevision: 1.2.3
  - repoURL: oci://ghcr.io/acme/charts/camera
    targetRevision: 2.0.0
    path: .
---
apiVersion: argoproj.io/v1alpha1
kind: AppProject
metadata: {name: fleet}
spec: {sourceRepos: ['*']}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: robot}
`, shelf{}, `
task Application argocd/robot-001: https://git.example.com/acme/robot-deployment.git@main path=charts/robot-app release=robots/robot file=charts/robot-app/values-prod.yaml? file=robot-values/robot-001.yaml? file=defaults/site.yaml? values={"image":{"tag":"1.0"},"replicas":2} values={"count":"3","image":{"tag":"1.1"},"list":["a","b"],"node.name":7,"text":"a,b"} set=containers[0].image=camera:2 skipcrds=true kube=1.31.0 apis=["monitoring.coreos.com/v1/ServiceMonitor"]
task Application prometheus: https://charts.example.com@15.7.1 chart=prometheus release=monitoring/prometheus file=https://git.example.com/acme/values.git@dev:charts/prometheus/values.yaml file=extra.yaml values={"alerts":false}
task Application prometheus: oci://ghcr.io/acme/charts/camera@2.0.0 chart=camera release=monitoring/prometheus
task Application prometheus: oci://ghcr.io/acme/charts/robot-app@1.2.3 chart=robot-app release=monitoring/prometheus
chart https://charts.example.com prometheus@15.7.1 for Application prometheus spec.sources[0].chart
chart oci://ghcr.io/acme/charts/camera @2.0.0 for Application prometheus spec.sources[3].repoURL
chart oci://ghcr.io/acme/charts/robot-app @1.2.3 for Application prometheus spec.sources[2].repoURL
git https://git.example.com/acme/robot-deployment.git @main for Application argocd/robot-001 spec.source.repoURL
git https://git.example.com/acme/values.git @dev for Application prometheus spec.sources[1].repoURL
`)
}

func TestApplicationKustomizeAndDirectory(t *testing.T) {
	look := shelf{{"https://git.example.com/acme/site", ""}: files(`-- overlays/a/kustomization.yaml --
resources: [../../base]
-- components/debug/kustomization.yaml --
kind: Component
-- manifests/robot.yaml --
kind: ConfigMap
-- manifests/gen.jsonnet --
{}
-- manifests/deep/gen.jsonnet --
{}
-- updated/.argocd-source-updated.yaml --
kustomize: {images: ["robot=registry.example.com/robot:9"]}
-- updated/kustomization.yaml --
{}
`)}
	check(t, `
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: overlay, namespace: argocd}
spec:
  destination: {namespace: robots}
  source:
    repoURL: git@git.example.com:acme/site.git
    path: ./overlays/a/
    kustomize:
      namePrefix: a-
      nameSuffix: -x
      namespace: robots
      images:
      - node:8.15.0
      - mysql=mariadb
      - alpine@sha256:24a0c4b4a4c0eb97a1aabb8e29f18e917d05abfe1b7a7c07857230879ce7d3d3
      - robot=localhost:5000/acme/robot:1.2@sha256:24a0c4b4a4c0eb97a1aabb8e29f18e917d05abfe1b7a7c07857230879ce7d3d3
      - camera=*:$ARGOCD_APP_NAME
      commonLabels: {app: $ARGOCD_APP_NAME}
      commonAnnotations: {team: fleet}
      replicas: [{name: robot, count: 2}, {name: camera, count: "3"}]
      patches:
      - target: {kind: Deployment, name: robot}
        patch: "[]"
        options: {allowNameChange: true}
      components: [../../components/debug, ../../components/none]
      ignoreMissingComponents: true
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: plain, namespace: argocd}
spec:
  source:
    repoURL: https://git.example.com/acme/site
    path: manifests
    directory: {recurse: true, include: '*.yaml', exclude: 'x/*', jsonnet: {}}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: found, namespace: argocd}
spec:
  source: {repoURL: "https://git.example.com/acme/site", path: manifests, directory: {jsonnet: {}}}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: updated, namespace: argocd}
spec:
  source: {repoURL: "https://git.example.com/acme/site", path: updated, kustomize: {images: ["robot=old:1"]}}
`, look, `
task Application argocd/overlay: git@git.example.com:acme/site.git@ path=overlays/a release=robots/overlay kustomize={"commonAnnotations":{"team":"fleet"},"commonLabels":{"app":"overlay"},"components":["../../components/debug"],"images":[{"name":"node","newTag":"8.15.0"},{"name":"mysql","newName":"mariadb"},{"digest":"sha256:24a0c4b4a4c0eb97a1aabb8e29f18e917d05abfe1b7a7c07857230879ce7d3d3","name":"alpine"},{"digest":"sha256:24a0c4b4a4c0eb97a1aabb8e29f18e917d05abfe1b7a7c07857230879ce7d3d3","name":"robot","newName":"localhost:5000/acme/robot","newTag":"1.2"},{"name":"camera","newTag":"overlay"}],"namePrefix":"a-","nameSuffix":"-x","namespace":"robots","patches":[{"options":{"allowNameChange":true},"patch":"[]","target":{"kind":"Deployment","name":"robot"}}],"replicas":[{"count":2,"name":"robot"},{"count":3,"name":"camera"}]}
task Application argocd/found: https://git.example.com/acme/site@ path=manifests release=/found
task Application argocd/plain: https://git.example.com/acme/site@ path=manifests release=/plain directory={"Recurse":true,"Include":"*.yaml","Exclude":"x/*"}
task Application argocd/updated: https://git.example.com/acme/site@ path=updated release=/updated kustomize={"images":[{"name":"robot","newName":"registry.example.com/robot","newTag":"9"}]}
git git@git.example.com:acme/site.git @ for Application argocd/overlay spec.source.repoURL
git https://git.example.com/acme/site @ for Application argocd/found spec.source.repoURL
git https://git.example.com/acme/site @ for Application argocd/plain spec.source.repoURL
git https://git.example.com/acme/site @ for Application argocd/updated spec.source.repoURL
problem Application argocd/found | spec.source.path: manifests/gen.jsonnet: jsonnet is not rendered
problem Application argocd/plain | spec.source.path: manifests/deep/gen.jsonnet: jsonnet is not rendered
problem Application argocd/plain | spec.source.path: manifests/gen.jsonnet: jsonnet is not rendered
`)
}

func TestApplicationValueFiles(t *testing.T) {
	look := shelf{{"https://git.example.com/acme/site.git", "main"}: files(`-- chart/Chart.yaml --
name: chart
-- chart/values/a.yaml --
-- chart/values/b.yaml --
-- chart/values/deep/c.yaml --
-- chart/motd.txt --
Hello, [robot], a\b
`)}
	check(t, `
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: globs}
spec:
  source:
    repoURL: https://git.example.com/acme/site.git
    targetRevision: main
    path: chart
    helm:
      valueFiles: [values/*.yaml, values/**/*.yaml, values/a.yaml, none/*.yaml]
      fileParameters: [{name: motd, path: motd.txt}, {name: other, path: none.txt}]
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: wrong}
spec:
  source:
    repoURL: https://git.example.com/acme/site.git
    targetRevision: main
    path: chart
    helm:
      valueFiles: [../../x.yaml, 'https://example.com/values.yaml', $other/a.yaml, 7, $ARGOCD_APP_REVISION.yaml]
      parameters:
      - {name: 'a[65536]', value: x}
      - {name: 'b[65536]', value: x}
      - {name: 'c', value: 1}
      values: "[]"
`, look, `
task Application globs: https://git.example.com/acme/site.git@main path=chart release=/globs file=chart/values/b.yaml file=chart/values/deep/c.yaml file=chart/values/a.yaml values={"motd":"Hello, [robot], a\\b\n"}
task Application wrong: https://git.example.com/acme/site.git@main path=chart release=/wrong file=chart/.yaml values={"c":""} set=a[65536]=x
git https://git.example.com/acme/site.git @main for Application globs spec.source.repoURL
git https://git.example.com/acme/site.git @main for Application wrong spec.source.repoURL
problem Application globs | spec.source.helm.fileParameters[1]: spec.source.helm.fileParameters[1]: open chart/none.txt: file does not exist
problem Application globs | spec.source.helm.valueFiles[3]: spec.source.helm.valueFiles[3]: "chart/none/*.yaml" matches no file
problem Application wrong | spec.source.helm.parameters[1]: spec.source.helm.parameters[1]: the parameters make lists of more than 100000 elements
problem Application wrong | spec.source.helm.parameters[2].value: spec.source.helm.parameters[2].value: a number, want a string
problem Application wrong | spec.source.helm.valueFiles[0]: spec.source.helm.valueFiles[0]: "../../x.yaml", want a file in the repository
problem Application wrong | spec.source.helm.valueFiles[1]: spec.source.helm.valueFiles[1]: "https://example.com/values.yaml" is fetched at the site, and only known there
problem Application wrong | spec.source.helm.valueFiles[2]: spec.source.helm.valueFiles[2]: no source of the Application has ref: other
problem Application wrong | spec.source.helm.valueFiles[3]: spec.source.helm.valueFiles[3]: $ARGOCD_APP_REVISION is only known at the site
problem Application wrong | spec.source.helm.valueFiles[3]: spec.source.helm.valueFiles[3]: a number, want a string
problem Application wrong | spec.source.helm.values: spec.source.helm.values: a list, want a map
`)
}

func TestApplicationProblems(t *testing.T) {
	check(t, `
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: plugin}
spec: {source: {repoURL: "https://git.example.com/a/b", path: x, plugin: {name: cdk8s}}}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: two}
spec: {source: {repoURL: "https://git.example.com/a/b", path: x, helm: {releaseName: x}, kustomize: {namePrefix: x}}}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: empty}
spec: {}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: nothing}
spec: {source: {repoURL: "https://git.example.com/a/b"}}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: outside}
spec: {source: {repoURL: "https://git.example.com/a/b", path: ../x}}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: artifact}
spec: {source: {repoURL: "oci://ghcr.io/acme/manifests", targetRevision: v1, path: site-a}}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: number}
spec: {source: {repoURL: "https://git.example.com/a/b", path: x, targetRevision: 1.10}}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: hydrated}
spec:
  sourceHydrator:
    drySource: {repoURL: "https://git.example.com/a/b", path: x, targetRevision: HEAD}
    syncSource: {targetBranch: environments/prod, path: rendered}
`, shelf{}, `
task Application hydrated: https://git.example.com/a/b@HEAD path=x release=/hydrated
task Application hydrated: https://git.example.com/a/b@environments/prod path=rendered release=/hydrated
task Application number: https://git.example.com/a/b@ path=x release=/number
chart oci://ghcr.io/acme/manifests @v1 for Application artifact spec.source.repoURL
git https://git.example.com/a/b @ for Application nothing spec.source.repoURL
git https://git.example.com/a/b @ for Application number spec.source.repoURL
git https://git.example.com/a/b @ for Application outside spec.source.repoURL
git https://git.example.com/a/b @ for Application plugin spec.source.repoURL
git https://git.example.com/a/b @ for Application two spec.source.repoURL
git https://git.example.com/a/b @HEAD for Application hydrated spec.sourceHydrator.drySource.repoURL
git https://git.example.com/a/b @environments/prod for Application hydrated spec.sourceHydrator.syncSource.repoURL
problem Application empty | spec: spec: no source
problem Application nothing | spec.source: spec.source: neither path nor chart nor ref
problem Application artifact | spec.source.path: spec.source.path: the manifests in an OCI artifact are not rendered, only charts
problem Application number | spec.source.targetRevision: spec.source.targetRevision: a number, want a string
problem Application outside | spec.source.path: spec.source.path: "../x", want a path in the repository
problem Application plugin | spec.source.plugin: spec.source.plugin: what a config management plugin renders is only known at the site
problem Application two | spec.source: spec.source: more than one of helm, kustomize and directory: Argo CD refuses it
`)
}
