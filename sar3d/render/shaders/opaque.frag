layout(location = 0) out vec4 out_color;
layout(location = 1) out vec4 out_geometry;

void main() {
    vec4 base = base_color();
    if (base.a < surface.x || beyond_triangle()) discard;
    vec3 n = facing_normal();
    out_color = vec4(shade(base.rgb, n), 1.0);
    out_geometry = geometry(n);
}
