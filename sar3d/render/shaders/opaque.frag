layout(location = 0) out vec4 out_color;
layout(location = 1) out vec3 out_normal;
layout(location = 2) out float out_depth;

void main() {
    vec4 base = base_color();
    if (base.a < surface.x || beyond_triangle()) discard;
    out_normal = facing_normal();
    out_color = vec4(shade(base.rgb, out_normal), 1.0);
    out_depth = distance_ahead();
}
